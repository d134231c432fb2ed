"""Messages to the coordinator, on the control socket."""

import msgspec

from headrace.protocol.call_results import AnyResult
from headrace.protocol.calls import AnyCall, CallTarget
from headrace.protocol.codec import Codec, Message
from headrace.protocol.common.process_registry import Role
from headrace.protocol.pooling import Task
from headrace.protocol.state import (
    FrontendLoad,
    FrontendState,
    ReloadState,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)


class WorkerHello(Message, tag=1):
    """A worker has started, or its state has changed.

    endpoint: of its requests socket. state: "starting", "ready" or one of SLEEPING.
    is_paused: it starts no request. adapters: ids of the LoRA adapters that it has loaded.
    tasks: what its model does; empty before it is loaded.
    """

    version: int
    worker_id: str
    group: str
    pid: int
    endpoint: str
    state: WorkerStatus
    is_paused: bool = False
    adapters: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()


class WorkerTotals(Message):
    """An engine's totals since its start.

    prefix_queried, cached_tokens: prompt tokens looked up and found in the cache.
    """

    prompt_tokens: int
    generated_tokens: int
    prefix_queried: int
    cached_tokens: int


class WorkerHeartbeat(Message, tag=2):
    """Sent some times a second. totals: not part of the load, which is published to frontends."""

    worker_id: str
    load: WorkerLoad
    totals: WorkerTotals


class WorkerFailed(Message, tag=3):
    """The worker cannot serve (a model that will not load, say) and exits."""

    worker_id: str
    reason: str


class WorkerDraining(Message, tag=4):
    """The worker drains: route no more requests to it."""

    worker_id: str


class CallResult(Message, tag=10):
    """The outcome of a call. process_id: of the worker or frontend that answers.

    value: None if the call failed. error: why it failed, fit to be shown to an operator; "" if it
    succeeded.
    """

    call_id: str
    process_id: str
    value: AnyResult | None
    error: str = ""


class PoolCall(Message, tag=11):
    """From a frontend: have `call` executed where it is answered, and report the outcome.

    timeout_s: processes that have not answered after it count as failed.
    """

    call_id: str
    frontend_id: str
    call: AnyCall
    target: CallTarget
    timeout_s: float


class WakeRequest(Message, tag=12):
    """From a frontend: requests wait for a group whose workers are all asleep, or that has none."""

    group: str


class FrontendHello(Message, tag=5):
    """A frontend has started."""

    version: int
    frontend_id: str
    pid: int


class FrontendHeartbeat(Message, tag=6):
    """Sent some times a second."""

    frontend_id: str
    load: FrontendLoad


class LauncherHello(Message, tag=7):
    """The launcher is there, with these workers and frontends running (ids).

    last_workers: the newest id in each replica slot that has ever been filled, so that a restarted
        coordinator does not reuse one.
    published, published_frontends: their last states as the previous coordinator published them. A
        frozen process cannot greet the new one.
    target_sizes: the last target size of each group, if it is known.
    """

    version: int
    workers: tuple[str, ...]
    frontends: tuple[str, ...]
    last_workers: tuple[str, ...]
    published: tuple[WorkerState, ...] = ()
    published_frontends: tuple[FrontendState, ...] = ()
    target_sizes: dict[str, int] = msgspec.field(default_factory=dict)


class FrontendStarted(Message, tag=9):
    """The launcher has started a frontend, which will greet."""

    frontend_id: str


class ChildExited(Message, tag=8):
    """A process of the pool has ended. exit_code: negative for a signal; None: only its parent,
    which is not our launcher, knows it."""

    process_id: str
    role: Role
    exit_code: int | None


class ReloadProgress(Message, tag=13):
    """From the launcher: how far a rolling restart is; repeated while a successor is awaited.

    While it is "starting", the coordinator has a successor started beside the old worker.
    """

    reload: ReloadState


ControlMessage = (
    WorkerHello
    | WorkerHeartbeat
    | WorkerFailed
    | WorkerDraining
    | FrontendHello
    | FrontendHeartbeat
    | LauncherHello
    | ChildExited
    | FrontendStarted
    | CallResult
    | PoolCall
    | WakeRequest
    | ReloadProgress
)

CONTROL = Codec[ControlMessage](ControlMessage)
