"""Actions that the coordinator's parts, which have no sockets, return for it to execute."""

from dataclasses import dataclass

from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import FrontendCall, PoolResult
from headrace.protocol.to_worker import WorkerCall

# Results, with the ids of the frontends that wait for them.
Answer = tuple[str, PoolResult]
WorkerMessage = tuple[str, WorkerCall]


@dataclass(frozen=True)
class Actions:
    """Things to do, in this order: publish the state, send calls to workers and frontends (with
    their ids), make calls of the coordinator's own, answer calls."""

    publish: bool = False
    to_workers: tuple[WorkerMessage, ...] = ()
    to_frontends: tuple[tuple[str, FrontendCall], ...] = ()
    calls: tuple[PoolCall, ...] = ()
    answers: tuple[Answer, ...] = ()
