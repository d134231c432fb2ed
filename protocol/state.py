"""The state of the pool, as the coordinator publishes it: on change and once a second."""

import msgspec

from headrace.protocol.codec import Codec, Message

STARTING, READY, DRAINING, STALLED = "starting", "ready", "draining", "stalled"
# What is to be released is still used by requests; has been released; is being brought back.
FALLING_ASLEEP, ASLEEP, WAKING = "falling_asleep", "asleep", "waking"
SLEEPING = (FALLING_ASLEEP, ASLEEP, WAKING)
# Can serve, perhaps after being woken.
SERVING = (READY, *SLEEPING)


class WorkerLoad(Message):
    """How busy a worker is and whether it makes progress.

    running, waiting: requests in the batch and in the queue.
    kv_usage: share of the cache's blocks in use, 0 to 1.
    steps: engine steps since the start.
    step_age_s: seconds that the step in hand has taken so far; 0 while there is no work.
    waiting_tokens: of the prompts of requests that have had no token yet.
    """

    running: int
    waiting: int
    kv_usage: float
    steps: int
    step_age_s: float
    waiting_tokens: int = 0


class FrontendLoad(Message):
    """in_flight: requests that the frontend has taken and not yet answered.
    held: those of them that no worker has, by group."""

    in_flight: int
    held: dict[str, int] = msgspec.field(default_factory=dict)


class AdapterState(Message):
    """A LoRA adapter of a group, under a name that requests use.

    adapter_id: names what is in its files; workers know it by this.
    root: what it is, without telling where it lies.
    is_leaving: it takes no new requests, and is unloaded when those that it has are over.
    """

    name: str
    adapter_id: str
    root: str
    is_leaving: bool = False


class WorkerState(Message):
    """is_paused: it takes requests, and starts none before it is told to go on.
    adapters: ids of the LoRA adapters that it has."""

    worker_id: str
    group: str
    pid: int
    state: str
    endpoint: str
    load: WorkerLoad
    is_paused: bool = False
    adapters: tuple[str, ...] = ()


class FrontendState(Message):
    frontend_id: str
    pid: int
    load: FrontendLoad


class GroupState(Message):
    """wanted: workers that the group is to have.
    problem: why it lacks some, if it does (a crash loop, say); "" if all is well.
    is_replacing: a worker leaves in good order, or has left, and another is to come: requests that
        find none ready meanwhile may wait.
    is_scaling: it becomes larger or smaller, and is not yet as it was asked for.
    starts_on_demand: it may have no worker at all, and requests have one started.
    adapters: its LoRA adapters, those that leave among them."""

    name: str
    wanted: int
    problem: str
    is_replacing: bool = False
    is_scaling: bool = False
    starts_on_demand: bool = False
    adapters: tuple[AdapterState, ...] = ()


class PoolState(Message, tag=1):
    """epoch names the coordinator that speaks (a restarted one has another); version counts."""

    epoch: str
    version: int
    groups: tuple[GroupState, ...]
    workers: tuple[WorkerState, ...]
    frontends: tuple[FrontendState, ...]


STATE = Codec[PoolState](PoolState)
