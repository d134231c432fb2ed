"""Migrate requests that wait in a busy worker to workers with capacity.

A request's worker is chosen when it comes. A worker that wakes up or starts later, because the
others have queues, would otherwise get nothing of these queues; and what was sent to a worker just
before this frontend heard that it is paused would wait until it is resumed.
"""

from collections.abc import Iterable, Iterator

from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.loads import Loads
from headrace.protocol.state import READY, WorkerState

# Longer than heartbeats take to report a queue; a request that has just been sent is about to run.
MIN_WAIT_S = 0.5
# A long prefill looks like waiting: it must not be started again and again.
MAX_MIGRATIONS = 3
# Minimum difference of two workers' loads for a migration.
DIFFERENCE = 2


def plan_migrations(
    workers: Iterable[WorkerState], loads: Loads, now: float
) -> Iterator[tuple[Flight, str, str]]:
    """Yield flights with their workers and new workers. Each must be migrated before the next is
    drawn.

    The newest flights of a queue go first: the oldest are about to run. Other frontends migrate
    their own, and see each other's migrations.
    """
    ready = [each for each in workers if each.state == READY]
    free = [each for each in ready if not each.is_paused and not each.load.waiting]
    groups = {each.group for each in free}
    crowded = [each for each in ready if each.load.waiting and each.group in groups]
    for worker in sorted(crowded, key=lambda each: -each.load.waiting):
        for flight in _waiting(worker, loads, now):
            target = _least_busy(free, flight, worker, loads)
            if target is not None:
                yield flight, worker.worker_id, target


def _waiting(worker: WorkerState, loads: Loads, now: float) -> list[Flight]:
    """Return this frontend's flights that may wait there, newest first, as many as wait."""
    flights = loads.carried_by(worker.worker_id).values()
    waiting = [each for each in flights if _may_move(each, now)]
    waiting.sort(key=lambda each: -each.sent_at)
    return waiting[: worker.load.waiting]


def _may_move(flight: Flight, now: float) -> bool:
    is_new = not flight.has_begun and not flight.tokens_so_far
    return is_new and flight.migrations < MAX_MIGRATIONS and now - flight.sent_at >= MIN_WAIT_S


def _least_busy(
    free: list[WorkerState], flight: Flight, worker: WorkerState, loads: Loads
) -> str | None:
    """Return the least busy worker of the group that has the adapter; None if none is clearly less
    busy than the flight's worker, which goes on."""
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
    return target if worker.is_paused or here - load[target] >= DIFFERENCE else None
