"""Send requests to workers: to the best one that takes them; hold those that none takes."""

import math
from collections.abc import Callable, Iterable

from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.fullness import ALL_FULL
from headrace.frontend.pool.held_flights import HeldFlights
from headrace.frontend.pool.interface import PoolBusy
from headrace.frontend.pool.known_pool import KnownPool
from headrace.frontend.pool.loads import Loads
from headrace.frontend.pool.probation import Probation
from headrace.frontend.pool.rebalance import plan_migrations
from headrace.frontend.pool.routing import choose
from headrace.protocol.to_worker import Abort, EngineRequest

# Delivers a message to a worker; false when its queue is full.
Send = Callable[[str, EngineRequest | Abort], bool]


class Sender:
    """Chooses the workers of flights, and notes in `loads` which worker carries which."""

    def __init__(
        self,
        send: Send,
        pool: KnownPool,
        loads: Loads,
        held: HeldFlights,
        probation: Probation,
        clock: Callable[[], float],
    ) -> None:
        self._send, self._clock = send, clock
        self._pool, self._loads = pool, loads
        self._held, self._probation = held, probation

    def send_to_best(self, flight: Flight, held_since: float | None = None) -> None:
        """Send a flight to the best worker that has not rejected it; without one, hold it or fail
        it. held_since: when it was held first; None: now."""
        if not self._probation.may_send(flight):
            return
        usable = self._pool.usable(flight.group, flight.request.adapter)
        ready = [self._loads.candidate(each.worker_id) for each in usable]
        while candidates := [each for each in ready if each.worker_id not in flight.rejected_by]:
            if self._send_to(choose(candidates, flight.request), flight):
                return
        if ready and not flight.has_begun and not flight.met_draining:
            retry_after_s = 1.0 if math.isinf(flight.retry_after_s) else flight.retry_after_s
            flight.fail(PoolBusy(ALL_FULL, retry_after_s))
        else:
            # The next pool state may be better, and workers that rejected it may have capacity.
            flight.rejected_by.clear()
            flight.met_draining = False
            self._held.hold(flight, held_since)

    def send_next_suspect(self) -> None:
        """Send the next flight that waits for its probation, if there is one."""
        flight = self._probation.next()
        if flight is not None:
            self.send_to_best(flight)

    def retry_held(self) -> None:
        """Retry flights that found no worker, or fail them if they have waited too long."""
        for flight, since in self._held.take_all().items():
            error = self._held.why_over(flight, since)
            if error is None:
                self.send_to_best(flight, held_since=since)
            else:
                flight.fail(error)

    def rebalance(self) -> None:
        """Migrate requests that wait in a busy worker to one with capacity."""
        for flight, source, target in plan_migrations(
            self._pool.workers.values(), self._loads, self._clock()
        ):
            self._loads.remove(source, flight.wire_id)
            self.abort(source, (flight.wire_id,))
            flight.begin_migration()
            if not self._send_to(target, flight):
                self.send_to_best(flight)

    def abort(self, worker_id: str, wire_ids: Iterable[str]) -> None:
        """Have a worker drop requests."""
        self._send(worker_id, Abort(tuple(wire_ids)))

    def _send_to(self, worker_id: str, flight: Flight) -> bool:
        self._loads.add(worker_id, flight)  # before sending: other frontends choose meanwhile
        if self._send(worker_id, flight.to_request()):
            flight.worker_id, flight.sent_at = worker_id, self._clock()
            return True
        self._loads.remove(worker_id, flight.wire_id)
        flight.rejected_by.add(worker_id)
        return False
