"""Metrics of groups whose size follows their load. For the files see coordinator/metrics.py."""

from typing import Literal

from prometheus_client import Counter, Gauge

from headrace.coordinator.autoscaling.autoscale_policy import Decision, Observation
from headrace.protocol.autoscaling import Autoscaling
from headrace.protocol.config import PoolConfig


class AutoscaleMetrics:
    """Metrics of all groups with `autoscaling`."""

    def __init__(self, config: PoolConfig) -> None:
        prefix, names = config.metrics_prefix + "autoscale_", ("model_name",)

        def gauge(name: str, text: str, *more: str) -> Gauge:
            # Values of a coordinator that died must not be added to those of the next one.
            mode: Literal["livemostrecent"] = "livemostrecent"
            return Gauge(prefix + name, text, (*names, *more), multiprocess_mode=mode)

        self._workers = {
            "desired": gauge("desired_workers", "Target number of the group's workers."),
            "needed": gauge("needed_workers", "Workers that its load needs, beyond any limit."),
            "ready": gauge("ready_workers", "Workers that take requests."),
            "min": gauge("min_workers", "Workers that it has at least."),
            "max": gauge("max_workers", "Workers that it has at most."),
        }
        self._load = gauge("load", "Requests in flight, or prompt tokens that wait.", "signal")
        self._target = gauge("target", "Target load of each worker.", "signal")
        self._decisions = Counter(
            prefix + "decisions", "Changes of size.", (*names, "direction", "reason")
        )
        self._failures = Counter(prefix + "failures", "Sizes that could not be reached.", names)
        self._models = {group.name: group.served_names[0] for group in config.groups}
        for group in config.groups:
            if group.autoscaling is not None:
                self._show_options(group.served_names[0], group.autoscaling)

    def show(self, group: str, decision: Decision, seen: Observation, ready: int) -> None:
        """Set the metrics of a group from an observation and its decision."""
        model = self._models[group]
        for name, value in (
            ("desired", decision.size),
            ("needed", decision.needed),
            ("ready", ready),
        ):
            self._workers[name].labels(model).set(value)
        self._load.labels(model, "requests").set(seen.requests)
        self._load.labels(model, "tokens").set(seen.tokens)

    def decided(self, group: str, decision: Decision, before: int) -> None:
        """Count a change of size."""
        direction = "up" if decision.size > before else "down"
        self._decisions.labels(self._models[group], direction, decision.cause).inc()

    def failed(self, group: str) -> None:
        """Count a size that could not be reached."""
        self._failures.labels(self._models[group]).inc()

    def _show_options(self, model: str, options: Autoscaling) -> None:
        self._failures.labels(model)
        self._workers["min"].labels(model).set(options.min_workers)
        self._workers["max"].labels(model).set(options.max_workers)
        self._target.labels(model, "requests").set(options.target_requests)
        if options.target_tokens is not None:
            self._target.labels(model, "tokens").set(options.target_tokens)
