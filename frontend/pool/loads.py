"""The requests that each worker runs for this frontend, and the load of each worker."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import LiveLoad
from headrace.frontend.pool.routing import Candidate
from headrace.frontend.pool.shared_load import SharedLoad
from headrace.protocol.state import PoolState, WorkerState


class Loads:
    """The flights that workers carry, by worker and wire id.

    A worker's load is this frontend's requests there plus what others publish (shared). What
    workers report is up to 0.3 s old, and counts only while the pool has a frontend whose requests
    are not visible: on another machine, or stopped.
    """

    def __init__(self, shared: SharedLoad | None = None) -> None:
        self._shared = shared
        self._carried: defaultdict[str, dict[str, Flight]] = defaultdict(dict)
        self._reported: dict[str, int] = {}  # requests of frontends that are not visible
        self._unseen_frontends = 0

    def __len__(self) -> int:
        """Return the number of all carried flights."""
        return sum(len(flights) for flights in self._carried.values())

    def carried_by(self, worker_id: str) -> Mapping[str, Flight]:
        """Return the flights of a worker, by wire id."""
        return self._carried.get(worker_id, {})

    def add(self, worker_id: str, flight: Flight) -> None:
        """Note that a worker carries a flight."""
        self._carried[worker_id][flight.wire_id] = flight
        self._publish(worker_id)

    def remove(self, worker_id: str, wire_id: str) -> Flight | None:
        """Remove and return a flight; None if the worker did not carry it."""
        flight = self._carried[worker_id].pop(wire_id, None)
        self._publish(worker_id)
        return flight

    def remove_all(self, worker_id: str) -> dict[str, Flight]:
        """Remove and return all flights of a worker."""
        flights = self._carried.pop(worker_id, {})
        self._publish(worker_id)
        return flights

    def candidate(self, worker_id: str) -> Candidate:
        """Return a worker with its load."""
        load = self._seen(worker_id)
        if not self._unseen_frontends and not self._reported:
            return Candidate(worker_id, load, load)
        load += self._reported.get(worker_id, 0)
        own = len(self.carried_by(worker_id))
        return Candidate(worker_id, load, load + own * self._unseen_frontends)

    def live(self, state: PoolState) -> LiveLoad:
        """Return the requests in flight now, by the workers and frontends of a pool state."""
        by_worker = {
            worker.worker_id: self.candidate(worker.worker_id).load for worker in state.workers
        }
        by_frontend: dict[str, int] = {}
        for frontend in state.frontends:
            shared = self._shared
            count = None if shared is None else shared.of_frontend(frontend.frontend_id)
            if count is not None:
                held = sum(frontend.load.held.values())
                by_frontend[frontend.frontend_id] = count + held
        return LiveLoad(by_worker, by_frontend)

    def on_state(self, state: PoolState, workers: Collection[WorkerState]) -> None:
        """Apply a pool state. workers: as this frontend sees them."""
        self.refresh()
        if self._shared is not None:
            self._shared.retain([worker.worker_id for worker in workers])
        self._unseen_frontends = self._count_unseen(state)
        is_all_seen = self._shared is not None and not self._unseen_frontends
        self._reported = {} if is_all_seen else dict(self._beyond_seen(workers))

    def refresh(self) -> None:
        """Show others that this frontend lives; call it some times a second."""
        if self._shared is not None:
            self._shared.refresh()

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def _count_unseen(self, state: PoolState) -> int:
        if self._shared is None:
            return max(len(state.frontends) - 1, 0)
        shared = self._shared
        return sum(not shared.sees(each.frontend_id) for each in state.frontends)

    def _beyond_seen(self, workers: Iterable[WorkerState]) -> Iterable[tuple[str, int]]:
        """Yield how many more requests each worker has reported than are visible."""
        for worker in workers:
            reported = worker.load.running + worker.load.waiting
            yield worker.worker_id, max(0, reported - self._seen(worker.worker_id))

    def _seen(self, worker_id: str) -> int:
        """Return a worker's requests of this frontend and of the visible ones."""
        if self._shared is not None and self._shared.is_open:
            return self._shared.in_flight(worker_id)
        return len(self._carried.get(worker_id, ()))

    def _publish(self, worker_id: str) -> None:
        if self._shared is not None:
            self._shared.publish(worker_id, len(self._carried.get(worker_id, ())))
