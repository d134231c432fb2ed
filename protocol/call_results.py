"""Results of admin calls (headrace.protocol.calls), and their form for HTTP clients."""

from typing import Any

import msgspec

from headrace.protocol.codec import Message
from headrace.protocol.state import WorkerStatus


class Result(Message):
    """Base of the results."""

    def to_json(self) -> Any:
        """Return the value that JSON answers of the admin API show."""
        return msgspec.structs.asdict(self)


class Done(Result, tag=1):
    """The call was executed; there is nothing to report."""

    def to_json(self) -> None:
        return None


class WorkerSleep(Result, tag=2):
    """Whether a worker is asleep, after Sleep or WakeUp."""

    state: WorkerStatus


class WorkerPaused(Result, tag=3):
    """Whether a worker is paused, after Pause or Resume."""

    is_paused: bool


class WorkerActivity(Result, tag=4):
    """A worker's state, as the coordinator knows it."""

    state: WorkerStatus
    is_paused: bool


class AdapterAdded(Result, tag=5):
    """The result of adding an adapter.

    problem: why no worker of the group can use the adapter; None: it was added.
    """

    problem: str | None = None

    def to_json(self) -> str | None:
        return self.problem


class AbortedCount(Result, tag=6):
    """The number of requests that a worker has ended."""

    count: int

    def to_json(self) -> int:
        return self.count


class AbortedNames(Result, tag=7):
    """The ids of requests that a frontend has ended, as their clients know them."""

    names: tuple[str, ...]

    def to_json(self) -> list[str]:
        return list(self.names)


class ConditionMet(Result, tag=8):
    """Whether the awaited condition came true in time."""

    is_met: bool

    def to_json(self) -> bool:
        return self.is_met


class ScalingState(Result, tag=9):
    is_scaling: bool

    def to_json(self) -> bool:
        return self.is_scaling


class ProfileStarted(Result, tag=10):
    """The result of starting a profile. started: false if a profile was being made already."""

    started: bool


class ProfileStopped(Result, tag=11):
    """The result of stopping a profile. trace: the file's name; None if none was being made."""

    trace: str | None


class WorkerInfo(Result, tag=12):
    """A worker's environment. torch, threads: None if torch is not loaded."""

    pid: int
    python: str
    torch: str | None
    threads: int | None
    engine: str
    cuda_visible_devices: str | None


class MemoryUse(Result, tag=13):
    """In bytes, shared memory included. weight_bytes, cache_bytes: None if the runner cannot
    tell."""

    resident_bytes: int
    weight_bytes: int | None
    cache_bytes: int | None


class EngineStatistics(Result, tag=14):
    """Gauges and counters of an engine: the fields of workers.engine.replica_engine.EngineStats, in
    their order, under the names that HTTP clients know."""

    running: int
    waiting: int
    blocks_used: int
    blocks_total: int
    steps: int
    prefix_queried: int
    prefix_hits: int
    preemptions: int
    prompt_tokens: int
    generated_tokens: int
    step_tokens: int
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: tuple[int, ...] = ()
    ended_by_preemptions: tuple[int, ...] = ()


class Pong(Result, tag=15):
    def to_json(self) -> str:
        return "pong"


AnyResult = (
    Done
    | WorkerSleep
    | WorkerPaused
    | WorkerActivity
    | AdapterAdded
    | AbortedCount
    | AbortedNames
    | ConditionMet
    | ScalingState
    | ProfileStarted
    | ProfileStopped
    | WorkerInfo
    | MemoryUse
    | EngineStatistics
    | Pong
)
