"""Make a dispatch of its parts."""

import time
from collections.abc import Callable

from headrace.frontend.pool.dispatch import Dispatch
from headrace.frontend.pool.failover import Failover
from headrace.frontend.pool.fullness import Fullness
from headrace.frontend.pool.held_flights import HeldFlights
from headrace.frontend.pool.known_pool import KnownPool
from headrace.frontend.pool.loads import Loads
from headrace.frontend.pool.probation import Probation
from headrace.frontend.pool.sender import Send, Sender
from headrace.frontend.pool.shared_load import SharedLoad


def assemble_dispatch(
    send: Send,
    *,
    max_replays: int = 3,
    clock: Callable[[], float] = time.monotonic,
    on_replay: Callable[[str, str], None] = lambda group, worker_id: None,
    shared: SharedLoad | None = None,
    wake: Callable[[str], None] | None = None,
    wake_timeout_s: float = 120.0,
    reject_while_scaling: bool = False,
) -> Dispatch:
    """Make the parts of a dispatch and join them.

    max_replays: of one request, for failures that it may have caused.
    on_replay: called with the group of each request that is replayed and its lost worker.
    shared: the requests in flight of other frontends.
    wake: called repeatedly with a group while requests wait for it and all of it sleeps; None:
        such requests fail. wake_timeout_s: how long they wait.
    reject_while_scaling: whether new requests fail while their group is being scaled.
    """
    pool = KnownPool(wakes_groups=wake is not None)
    loads = Loads(shared)
    held = HeldFlights(pool, clock, wake or _wake_nothing, wake_timeout_s)
    probation = Probation()
    sender = Sender(send, pool, loads, held, probation, clock)
    failover = Failover(sender, loads, probation, max_replays, on_replay)
    return Dispatch(
        pool, loads, Fullness(clock), held, probation, sender, failover, reject_while_scaling
    )


def _wake_nothing(group: str) -> None:
    """Do nothing: a group is never seen asleep here, so that no request waits for it."""
