"""List the settings to compare; each differs from the default in one respect."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.scaling.engines import Engine
from headrace.protocol.autoscaling import DOWN_WINDOW_S, TARGET_SHARE, UP_WINDOW_S


@dataclass(frozen=True)
class Setting:
    """One setting of the autoscaler.

    target: as a share of the requests that a worker runs at once.
    fixed: a fixed size, as a quantile of a perfect oracle's sizes over the day; None: autoscaling.
    queue_share, counts_running: see pool.play.
    constants: of coordinator.autoscaling.autoscale_policy, to replace.
    """

    name: str
    up_s: float = UP_WINDOW_S
    down_s: float = DOWN_WINDOW_S
    target: float = TARGET_SHARE
    start_s: float = 60.0
    fixed: float | None = None
    queue_share: float = 1.0
    counts_running: bool = True
    constants: Mapping[str, float] = field(default_factory=dict)

    def engine(self) -> Engine:
        """Return the engine to simulate."""
        return replace(Engine(), start_s=self.start_s)


NEVER = float("inf")
DEFAULT = Setting("defaults")
SETTINGS = [
    DEFAULT,
    Setting("up window 0 s", up_s=0.0),
    Setting("up window 30 s", up_s=30.0),
    Setting("up window 60 s", up_s=60.0),
    Setting("down window 60 s", down_s=60.0),
    Setting("down window 120 s", down_s=120.0),
    Setting("down window 600 s", down_s=600.0),
    Setting("down window 1800 s", down_s=1800.0),
    Setting("target 0.4 of the slots", target=0.4),
    Setting("target 0.5", target=0.5),
    Setting("target 0.7", target=0.7),
    Setting("target 0.8", target=0.8),
    Setting("starts of 10 s", start_s=10.0),
    Setting("starts of 240 s", start_s=240.0),
    Setting("starts of 240 s, target 0.5", start_s=240.0, target=0.5),
    Setting("no quicker reaction to bursts", constants={"BURST": NEVER}),
    Setting("the same, up window 60 s", up_s=60.0, constants={"BURST": NEVER}),
    Setting("no tolerance", constants={"TOLERANCE": 0.0}),
    Setting("shrinks all at once", constants={"STEP": 1.0}),
    Setting("shrinks all at once, target 0.7", target=0.7, constants={"STEP": 1.0}),
    Setting("shrinks all at once, starts of 240 s", start_s=240.0, constants={"STEP": 1.0}),
    Setting("half of the waiting count", queue_share=0.5),
    Setting("half of them, starts of 240 s", queue_share=0.5, start_s=240.0),
    Setting("waiting requests alone count", target=4 / 64, counts_running=False),
    Setting("fixed: enough for the peak", fixed=1.0),
    Setting("fixed: enough for 99 % of the day", fixed=0.99),
]
SMALL = [
    setting
    for setting in SETTINGS
    if setting.name.startswith(
        ("defaults", "up window", "down", "target", "shrinks all at once", "fix")
    )
]
