"""Messages to the coordinator, on the control socket."""

import msgspec

from headrace.protocol.codec import Codec, Message
from headrace.protocol.state import FrontendLoad, FrontendState, WorkerLoad, WorkerState


class WorkerHello(Message, tag=1):
    """A worker is there, or its state is another. `endpoint` is where its requests socket is bound;
    `state` one of protocol.state's: starting, ready, or one of sleeping. is_paused: it starts no
    request. adapters: ids of the LoRA adapters that it has."""

    version: int
    worker_id: str
    group: str
    pid: int
    endpoint: str
    state: str
    is_paused: bool = False
    adapters: tuple[str, ...] = ()


class WorkerTotals(Message):
    """What an engine has done since its start.

    prefix_queried, cached_tokens: prompt tokens looked up and found in the cache.
    """

    prompt_tokens: int
    generated_tokens: int
    prefix_queried: int
    cached_tokens: int


class WorkerHeartbeat(Message, tag=2):
    """totals: not part of the load, which is published to all frontends."""

    worker_id: str
    load: WorkerLoad
    totals: WorkerTotals


class WorkerFailed(Message, tag=3):
    """The worker cannot serve (a model that will not load, say) and exits."""

    worker_id: str
    reason: str


class WorkerLeaving(Message, tag=4):
    """The worker drains: route nothing more to it."""

    worker_id: str


class CallResult(Message, tag=10):
    """What came of a call. worker_id: of the worker, or the frontend. value: JSON, "" if it failed.
    error: why, fit to be shown to an operator; "" if it did not."""

    call_id: str
    worker_id: str
    value: str
    error: str = ""


class PoolCall(Message, tag=11):
    """From a frontend: have workers do something, or all frontends, and tell it what came of it.

    method, arguments: as of to_worker.Call.
    group: whose workers; "": of all groups. worker: one of them, by its id or its place; "": all.
    timeout_s: after which workers that have not answered count as failed.
    """

    call_id: str
    frontend_id: str
    method: str
    arguments: str
    group: str
    worker: str
    timeout_s: float


class WakeWanted(Message, tag=12):
    """From a frontend: requests wait for the group's workers, and all of these sleep."""

    group: str


class FrontendHello(Message, tag=5):
    version: int
    frontend_id: str
    pid: int


class FrontendHeartbeat(Message, tag=6):
    frontend_id: str
    load: FrontendLoad


class LauncherHello(Message, tag=7):
    """The launcher is there, with these workers and frontends running (ids).

    last_workers: the newest id in each place that has ever been filled, so that a restarted
        coordinator gives none of them again.
    published, published_frontends: what the coordinator before has last said of these processes.
        One of them may be frozen and unable to greet the new one.
    wanted: how many workers each group was last to have, if that is known.
    """

    version: int
    workers: tuple[str, ...]
    frontends: tuple[str, ...]
    last_workers: tuple[str, ...]
    published: tuple[WorkerState, ...] = ()
    published_frontends: tuple[FrontendState, ...] = ()
    wanted: dict[str, int] = msgspec.field(default_factory=dict)


class FrontendStarted(Message, tag=9):
    """The launcher has started a frontend, which is to greet."""

    frontend_id: str


class ChildExited(Message, tag=8):
    """A process of the pool has ended. exit_code: negative for a signal; None: only its parent
    knows, and that is no launcher of ours."""

    process_id: str
    role: str
    exit_code: int | None


ControlMessage = (
    WorkerHello
    | WorkerHeartbeat
    | WorkerFailed
    | WorkerLeaving
    | FrontendHello
    | FrontendHeartbeat
    | LauncherHello
    | ChildExited
    | FrontendStarted
    | CallResult
    | PoolCall
    | WakeWanted
)

CONTROL = Codec[ControlMessage](ControlMessage)
