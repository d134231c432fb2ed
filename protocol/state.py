"""The pool state, as the coordinator publishes it: on each change and once a second."""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from headrace.protocol.codec import Codec, Message
from headrace.protocol.pooling import Task

WorkerStatus = Literal[
    "starting", "ready", "draining", "stalled", "falling_asleep", "asleep", "waking"
]
STARTING: Final = "starting"
READY: Final = "ready"
DRAINING: Final = "draining"
STALLED: Final = "stalled"
FALLING_ASLEEP: Final = "falling_asleep"  # requests still use the memory that must be released
ASLEEP: Final = "asleep"  # it has been released
WAKING: Final = "waking"  # it is being restored
SLEEPING = (FALLING_ASLEEP, ASLEEP, WAKING)
# Can serve, perhaps after being woken.
SERVING = (READY, *SLEEPING)


class WorkerLoad(Message):
    """The load of a worker, and whether it makes progress.

    running, waiting: requests in the batch and in the queue.
    kv_usage: share of the cache's blocks in use, 0 to 1.
    steps: engine steps since the start.
    step_age_s: seconds since the current step began; 0 without work.
    waiting_tokens: prompt tokens of requests without an output token yet.
    deferred: those of the waiting requests that wait for something else than room in the batch: a
        grammar that is being compiled, or a LoRA adapter's turn.
    running_adapters, waiting_adapters: ids of the LoRA adapters of requests in the batch and in the
        queue.
    """

    running: int
    waiting: int
    kv_usage: float
    steps: int
    step_age_s: float
    waiting_tokens: int = 0
    deferred: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()


class FrontendLoad(Message):
    """The load of a frontend.

    in_flight: accepted requests that are not answered yet.
    held: those of them that no worker has, by group.
    """

    in_flight: int
    held: dict[str, int] = msgspec.field(default_factory=dict)


class AdapterState(Message):
    """A LoRA adapter of a group, under a name that requests use.

    adapter_id: identifies the contents of its files; workers know it by this.
    root: its name at its source, without its location.
    is_draining: it takes no new requests, and is unloaded when the last one has ended.
    """

    name: str
    adapter_id: str
    root: str
    is_draining: bool = False


class WorkerState(Message):
    """A worker.

    is_paused: it accepts requests and starts none until it is resumed.
    adapters: ids of the LoRA adapters that it has loaded.
    tasks: what its model does; empty before it is loaded.
    """

    worker_id: str
    group: str
    pid: int
    state: WorkerStatus
    endpoint: str
    load: WorkerLoad
    is_paused: bool = False
    adapters: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()


class FrontendState(Message):
    """A frontend that serves."""

    frontend_id: str
    pid: int
    load: FrontendLoad


class GroupState(Message):
    """A group.

    target_size: workers that it should have.
    problem: why it lacks some (a crash loop, say); "" if nothing is wrong.
    is_replacing: a worker drains, or has drained, and a successor will come: requests that find
        none ready meanwhile may wait.
    is_scaling: it has not yet reached the size that an operator has set.
    starts_on_demand: it may have no worker at all; requests have one started.
    adapters: its LoRA adapters, draining ones included.
    """

    name: str
    target_size: int
    problem: str
    is_replacing: bool = False
    is_scaling: bool = False
    starts_on_demand: bool = False
    adapters: tuple[AdapterState, ...] = ()


ReloadPhase = Literal["starting", "draining", "replacing", "frontends", "done", "failed"]
RELOAD_STARTING: Final = "starting"  # the successor starts while the old worker serves
RELOAD_DRAINING: Final = "draining"  # the successor serves; the old worker finishes its requests
RELOAD_REPLACING: Final = "replacing"  # the old worker leaves before its successor starts
RELOAD_FRONTENDS: Final = "frontends"  # workers are done; frontends are replaced
RELOAD_DONE: Final = "done"
RELOAD_FAILED: Final = "failed"  # what has not been replaced stays


class ReloadState(Message):
    """The last rolling restart since the launcher's start.

    number: counts rolling restarts, from 1.
    slot: that is being replaced, or was when it failed. old, new: the processes in it; "" if there
        is none, or it is not known.
    reason: why it failed, or why the old worker leaves first; fit to be shown to an operator.
    """

    number: int
    phase: ReloadPhase
    slot: str = ""
    old: str = ""
    new: str = ""
    reason: str = ""


class PoolState(Message, tag=1):
    """The whole pool. epoch: identifies the coordinator (a restarted one has another).
    version: counts the states of one epoch. reload: None before the first rolling restart."""

    epoch: str
    version: int
    groups: tuple[GroupState, ...]
    workers: tuple[WorkerState, ...]
    frontends: tuple[FrontendState, ...]
    reload: ReloadState | None = None


STATE = Codec[PoolState](PoolState)


def serving_slots(workers: Iterable[WorkerState]) -> set[str]:
    """Return the replica slots in which a worker can serve; two may do so during a reload."""
    return {each.worker_id.rpartition(".")[0] for each in workers if each.state in SERVING}


def engine_label(worker_id: str) -> str:
    """Return the number of the worker's replica slot: "0" of "chat-0.3"."""
    return worker_id.rpartition("-")[2].partition(".")[0]
