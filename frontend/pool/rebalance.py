"""Requests that wait in a busy worker while another has room: which are to move, and where.

Where a request goes is chosen when it comes, by what there is then. A worker that wakes, or that is
started because the others have a queue, would see nothing of that queue.
"""

from collections.abc import Iterable, Iterator

from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.loads import Loads
from headrace.protocol.state import READY, WorkerState

# Longer than heartbeats take to say that somebody waits; what has just been sent is about to run.
PATIENCE_S = 0.5
# A prompt that takes long to run looks like one that waits: it is not to be begun again and again.
MOST_MOVES = 3
# By how many requests a worker is busier than another, at least, before one moves.
DIFFERENCE = 2


def moves(
    workers: Iterable[WorkerState], loads: Loads, now: float
) -> Iterator[tuple[Flight, str, str]]:
    """Flights, the workers that they wait in, and those that they are to go to. Each is to be moved
    before the next is asked for.

    Of what waits in a worker, the last that came: the first are about to run. Other frontends move
    what is theirs, and see each other's moves.
    """
    everybody = [each for each in workers if each.state == READY and not each.is_paused]
    free = [each for each in everybody if not each.load.waiting]
    crowded = [each for each in everybody if each.load.waiting] if free else []
    for worker in sorted(crowded, key=lambda each: -each.load.waiting):
        for flight in _waiting(worker, loads, now):
            target = _least_busy(free, flight, worker, loads)
            if target is not None:
                yield flight, worker.worker_id, target


def _waiting(worker: WorkerState, loads: Loads, now: float) -> list[Flight]:
    """As many as wait there, if so many are this frontend's; the last that came first."""
    flights = loads.carried_by(worker.worker_id).values()
    waiting = [each for each in flights if _may_move(each, now)]
    waiting.sort(key=lambda each: -each.sent_at)
    return waiting[: worker.load.waiting]


def _may_move(flight: Flight, now: float) -> bool:
    is_new = not flight.has_begun and not flight.tokens_so_far
    return is_new and flight.moves < MOST_MOVES and now - flight.sent_at >= PATIENCE_S


def _least_busy(
    free: list[WorkerState], flight: Flight, worker: WorkerState, loads: Loads
) -> str | None:
    """The one of the same group, and with the adapter, that has least to do; None if all of them
    have about as much as the worker that the flight is in."""
    adapter = flight.request.adapter
    fit = [
        each.worker_id
        for each in free
        if each.group == worker.group and (not adapter or adapter in each.adapters)
    ]
    if not fit:
        return None
    load = {each: loads.candidate(each).expected for each in fit}
    target = min(fit, key=lambda each: load[each])
    here = loads.candidate(worker.worker_id).load
    return target if here - load[target] >= DIFFERENCE else None
