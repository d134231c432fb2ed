"""Messages to the launcher, on the control socket."""

from dataclasses import dataclass

from headrace.protocol.codec import Codec
from headrace.protocol.to_worker import Introduce


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker process for a group; its id is new for each start. workers_on_host: how many
    share the machine with it, itself included."""

    worker_id: str
    group: str
    workers_on_host: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End a worker's process at once."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class KillFrontend:
    """End a frontend's process at once. Who restarts frontends starts another."""

    frontend_id: str


CONTROL = Codec({1: Introduce, 2: StartWorker, 3: KillWorker, 4: KillFrontend})
