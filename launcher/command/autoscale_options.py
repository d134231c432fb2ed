"""A group's size and the values of its autoscaling policy, from the operator's options."""

from headrace.protocol.autoscaling import (
    DOWN_WINDOW_S,
    MOST_WORKERS,
    TARGET_SHARE,
    UP_WINDOW_S,
    Autoscaling,
    AutoscalingOptions,
)


class InvalidSizes(ValueError):
    """Options exclude each other. key: of the option to name in the error."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


def check_sizes(options: AutoscalingOptions, workers: int | None, wake_on_demand: bool) -> None:
    """Raise InvalidSizes if options exclude each other. workers: as given."""
    least, most = options.min_workers, options.max_workers
    if least is None and most is None:
        given = options.model_dump(include=set(AutoscalingOptions.model_fields))
        for key, value in given.items():
            if value is not None:
                raise InvalidSizes(key, "needs min_workers or max_workers")
        if workers == 0:
            raise InvalidSizes("workers", "0 needs min_workers = 0, so that requests start one")
        return
    if most is not None and most > MOST_WORKERS:
        raise InvalidSizes("max_workers", f"must not exceed {MOST_WORKERS}")
    if least is not None and most is not None and least > most:
        raise InvalidSizes("min_workers", f"must not exceed max_workers ({most})")
    if least == 0 and not wake_on_demand:
        raise InvalidSizes("min_workers", "0 needs wake_on_demand: nothing else starts a worker")
    if workers is not None and not (1 if least is None else least) <= workers <= (most or workers):
        raise InvalidSizes("workers", "must lie between min_workers and max_workers")
    if workers == 0 and most is None:
        raise InvalidSizes("workers", "0 needs max_workers: there would be no upper limit")


def resolve(
    options: AutoscalingOptions, workers: int | None, default_size: int, max_num_seqs: int
) -> tuple[int, Autoscaling | None]:
    """Return the size with which a group starts, and the values of its policy if it has one.

    options: they have passed check_sizes.
    default_size: workers of a group without options: one for each GPU, or one on a CPU.
    max_num_seqs: requests that a worker runs at once.
    """
    if options.min_workers is None and options.max_workers is None:
        return workers or default_size, None
    least = 1 if options.min_workers is None else options.min_workers
    most = options.max_workers
    if most is None:  # elastic downwards only
        most = max(least, workers or default_size)
    up_s, down_s = options.scale_up_window_s, options.scale_down_window_s
    autoscaling = Autoscaling(
        min_workers=least,
        max_workers=most,
        target_requests=options.scale_target_requests or max(1.0, TARGET_SHARE * max_num_seqs),
        target_tokens=options.scale_target_tokens,
        up_window_s=UP_WINDOW_S if up_s is None else up_s,
        down_window_s=DOWN_WINDOW_S if down_s is None else down_s,
    )
    size = min(max(default_size, least), most) if workers is None else workers
    return size, autoscaling
