"""Options of autoscaling: how many workers a group may have, and which load decides."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Chosen by bench/autoscale_sim.py: see docs/autoscaling.md.
UP_WINDOW_S, DOWN_WINDOW_S = 10.0, 300.0
# Target of requests in each worker, as a share of those that it can run at once.
TARGET_SHARE = 0.6
MOST_WORKERS = 1024  # of a group

Workers = Annotated[int, Field(ge=0)]
Target = Annotated[float, Field(gt=0)]
Window = Annotated[float, Field(ge=0, le=24 * 3600)]


class AutoscalingOptions(BaseModel):
    """The options of a group, as an operator gives them. None: not given.

    With min_workers or max_workers the group's size follows its load; without both operators
    set it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_workers: Workers | None = Field(
        None,
        description=(
            "least number of workers, which follows the load if this or max_workers is given; 0: "
            "none without requests"
        ),
    )
    max_workers: Annotated[int, Field(ge=1)] | None = Field(
        None, description="greatest number of workers"
    )
    scale_target_requests: Target | None = Field(
        None, description="requests for each worker, running and waiting together"
    )
    scale_target_tokens: Target | None = Field(
        None, description="prompt tokens for each worker, of requests without output yet"
    )
    scale_up_window_s: Window | None = Field(
        None, description="seconds for which more workers must have been needed"
    )
    scale_down_window_s: Window | None = Field(
        None, description="seconds for which fewer workers must have been enough"
    )


class Autoscaling(BaseModel):
    """The complete options of a group whose size follows its load. target_tokens: None if requests
    alone decide."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_workers: Workers
    max_workers: Annotated[int, Field(ge=1)]
    target_requests: Target
    target_tokens: Target | None = None
    up_window_s: Window = UP_WINDOW_S
    down_window_s: Window = DOWN_WINDOW_S
