"""The admin calls: what the admin API has the coordinator, the workers or the frontends do.

A call travels from a frontend to the coordinator (to_coordinator.PoolCall), from there to the
processes that answer it (to_worker.WorkerCall, to_frontend.FrontendCall) and back
(to_coordinator.CallResult, to_frontend.PoolResult). To add a call, write

1. a class here, with its answerer (the base class) and the class of its result
   (headrace.protocol.call_results), and add it to its answerer's union below;
2. its handler: in workers (workers/process/assemble.py, or inquiries.py there), frontends
   (frontend/admin/frontend_calls.py) or the coordinator (coordinator/assemble.py);
3. a route (frontend/routes/) with its schema (frontend/schemas/admin.py).

A process whose table of handlers lacks a call does not start.
"""

from collections.abc import Collection
from dataclasses import replace
from types import UnionType
from typing import ClassVar, Final, Literal, Self, TypeGuard, get_args

from headrace.protocol.call_results import (
    AbortedCount,
    AbortedNames,
    AdapterAdded,
    ConditionMet,
    Done,
    EngineStatistics,
    MemoryUse,
    Pong,
    ProfileStarted,
    ProfileStopped,
    Result,
    ScalingState,
    WorkerActivity,
    WorkerInfo,
    WorkerPaused,
    WorkerSleep,
)
from headrace.protocol.codec import Message

Answerer = Literal["coordinator", "workers", "frontends"]
SleepLevel = Literal[1, 2]
SleepMode = Literal["drain", "wait", "abort"]
PauseMode = Literal["abort", "wait", "keep"]
ProfileKind = Literal["torch", "stacks"]
MemoryTag = Literal["weights", "kv_cache"]
ALL_MEMORY: tuple[MemoryTag, ...] = ("weights", "kv_cache")

# Why a call failed as a whole: no process could be called, the time was over, another change is
# in progress, it was tried in vain; or the arguments are invalid, name nothing that exists, or
# name something that the group's workers cannot use.
ErrorKind = Literal["absent", "timeout", "conflict", "failed", "invalid", "missing", "unfit"]
ABSENT: Final = "absent"
TIMEOUT: Final = "timeout"
CONFLICT: Final = "conflict"
FAILED: Final = "failed"
INVALID: Final = "invalid"
MISSING: Final = "missing"
UNFIT: Final = "unfit"
# The answer of a worker whose Pause a Resume has overtaken: it did what was asked last.
OVERTAKEN: Final = "it was resumed before it had paused"


class CallTarget(Message):
    """The processes that a call is for.

    group: the group whose workers are called; "": the workers of all groups.
    worker: one of them, by its id ("chat-0.3") or its replica slot ("chat-0"); "": all.
    """

    group: str = ""
    worker: str = ""


class AdminCall(Message):
    """Base of the calls. answered_by: which processes answer. result: the class of each answer."""

    answered_by: ClassVar[Answerer]
    result: ClassVar[type[Result]]


class _ByWorkers(AdminCall):
    answered_by = "workers"

    def for_worker(self, others_are_awake: bool) -> Self:
        """Return the call as one worker gets it. others_are_awake: whether another worker of its
        group, which this call does not go to, is ready."""
        return self


class _ByFrontends(AdminCall):
    answered_by = "frontends"


class _ByCoordinator(AdminCall):
    answered_by = "coordinator"


class Sleep(_ByWorkers, tag=1):
    """Give memory back until WakeUp.

    level: 1 releases caches and an accelerator's weights, 2 drops all weights.
    mode: for requests in flight. "wait": finish them first. "drain": hand them to another worker
        if one is awake, else finish them. "abort": end them.
    timeout_s: how long to wait for them; after that the worker stays awake.
    others_are_awake: whether another worker of the group takes this one's requests. The
        coordinator sets it for each worker.
    """

    result = WorkerSleep

    level: SleepLevel = 1
    mode: SleepMode = "drain"
    timeout_s: float = 60.0
    others_are_awake: bool = False

    def for_worker(self, others_are_awake: bool) -> Self:
        return replace(self, others_are_awake=others_are_awake)


class WakeUp(_ByWorkers, tag=2):
    """Restore memory that was released. tags: which parts."""

    result = WorkerSleep

    tags: tuple[MemoryTag, ...] = ALL_MEMORY


class Pause(_ByWorkers, tag=3):
    """Accept requests without starting them until Resume.

    mode: for running requests. "abort": end them. "wait": finish them within timeout_s, or do not
        pause. "keep": freeze them.
    clear_cache: forget cached prefixes; ignored with "keep".
    """

    result = WorkerPaused

    mode: PauseMode = "abort"
    clear_cache: bool = True
    timeout_s: float = 60.0


class Resume(_ByWorkers, tag=4):
    """Start waiting requests, and continue frozen ones."""

    result = WorkerPaused


class AddAdapter(_ByWorkers, tag=5):
    """Load a LoRA adapter from its copy in the run directory."""

    result = AdapterAdded

    adapter_id: str


class RemoveAdapter(_ByWorkers, tag=6):
    """Unload a LoRA adapter, once no request of the worker uses it."""

    result = Done

    adapter_id: str


class AbortAll(_ByWorkers, tag=7):
    """End all requests of a worker."""

    result = AbortedCount


class ResetPrefixCache(_ByWorkers, tag=8):
    """Forget cached prefixes. reset_running_requests: also recompute running requests."""

    result = Done

    reset_running_requests: bool = False


class StartProfile(_ByWorkers, tag=9):
    """Begin a profile, unless one is being made."""

    result = ProfileStarted

    mode: ProfileKind = "torch"


class StopProfile(_ByWorkers, tag=10):
    """End the profile and write it to a file."""

    result = ProfileStopped


class GetInfo(_ByWorkers, tag=11):
    """Report what a worker runs on. Answered without its engine."""

    result = WorkerInfo


class GetMemory(_ByWorkers, tag=12):
    """Report a worker's memory."""

    result = MemoryUse


class GetStats(_ByWorkers, tag=13):
    """Report an engine's gauges and counters."""

    result = EngineStatistics


class Ping(_ByWorkers, tag=14):
    """Answer between two engine steps, which shows that the engine makes progress."""

    result = Pong


class AbortRequests(_ByFrontends, tag=15):
    """End requests by the ids that clients know; None: all. group: only those of this group;
    "": of all groups."""

    result = AbortedNames

    request_ids: tuple[str, ...] | None
    group: str = ""


class AwaitAdapterShown(_ByFrontends, tag=16):
    """Wait until new requests find an adapter, timeout_s at most."""

    result = ConditionMet

    adapter_id: str
    timeout_s: float


class AwaitAdapterUnused(_ByFrontends, tag=17):
    """Wait until no request uses an adapter or can find it, timeout_s at most."""

    result = ConditionMet

    adapter_id: str
    timeout_s: float


class GetActivity(_ByCoordinator, tag=18):
    """Report the state of each worker that the target names."""

    result = WorkerActivity


class Scale(_ByCoordinator, tag=19):
    """Start or drain workers until the group has `size` of them.

    drain_timeout_s: for the requests of drained workers; after that they run elsewhere.
    start_timeout_s: for new workers to be ready.
    """

    result = Done

    size: int
    drain_timeout_s: float
    start_timeout_s: float


class GetScaling(_ByCoordinator, tag=20):
    """Report whether the target's group, or any, is being scaled."""

    result = ScalingState


class LoadAdapter(_ByCoordinator, tag=21):
    """Serve a LoRA adapter in the target's group.

    name: what requests call it. adapter_id: its copy in the run directory.
    root: its name at its source, without its location on this machine.
    in_place: replace an adapter of that name.
    """

    result = AdapterAdded

    name: str
    adapter_id: str
    root: str
    in_place: bool = False


class UnloadAdapter(_ByCoordinator, tag=22):
    """Stop serving a LoRA adapter, and unload it when its last request has ended."""

    result = Done

    name: str


CallToWorkers = (
    Sleep
    | WakeUp
    | Pause
    | Resume
    | AddAdapter
    | RemoveAdapter
    | AbortAll
    | ResetPrefixCache
    | StartProfile
    | StopProfile
    | GetInfo
    | GetMemory
    | GetStats
    | Ping
)
CallToFrontends = AbortRequests | AwaitAdapterShown | AwaitAdapterUnused
CallToCoordinator = GetActivity | Scale | GetScaling | LoadAdapter | UnloadAdapter
AnyCall = CallToWorkers | CallToFrontends | CallToCoordinator


def is_for_workers(call: AnyCall) -> TypeGuard[CallToWorkers]:
    return call.answered_by == "workers"


def is_for_frontends(call: AnyCall) -> TypeGuard[CallToFrontends]:
    return call.answered_by == "frontends"


def check_handled(answered: UnionType, handled: Collection[type[AdminCall]]) -> None:
    """Check that every call of a union has a handler. Raises NotImplementedError if not."""
    missing = [each.__name__ for each in get_args(answered) if each not in handled]
    if missing:
        raise NotImplementedError(f"no handler for {', '.join(missing)}")
