"""Fail over requests whose worker is lost, or whose tokens are: another worker continues them."""

import logging
from collections.abc import Callable

from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import RequestLost
from headrace.frontend.pool.loads import Loads
from headrace.frontend.pool.probation import Probation
from headrace.frontend.pool.sender import Sender

log = logging.getLogger("headrace.frontend")

QUARANTINED = "Several workers failed while they ran this request; it is not tried again."
# Workers that die before they confirm a replay must not get the same request for ever.
MAX_UNEXPLAINED_REPLAYS = 20


class Failover:
    """Replays requests.

    max_replays: of one request, for failures that it may have caused.
    on_replay: called with the group of each request that is replayed and its lost worker.
    """

    def __init__(
        self,
        sender: Sender,
        loads: Loads,
        probation: Probation,
        max_replays: int,
        on_replay: Callable[[str, str], None],
    ) -> None:
        self._sender, self._loads, self._probation = sender, loads, probation
        self._max_replays, self._on_replay = max_replays, on_replay

    def on_lost(self, worker_id: str, has_failed: bool) -> None:
        """Fail over the requests of a worker that is gone. has_failed: it has not drained; one of
        its requests may be why."""
        flights = self._loads.remove_all(worker_id)
        if flights:
            log.warning("lost %s; requests that fail over: %d", worker_id, len(flights))
        suspects = self._probation.suspects(list(flights.values())) if has_failed else ()
        for flight in flights.values():
            self._replay(flight, worker_id, is_blamed=flight in suspects and flight.reached_worker)

    def on_gap(self, worker_id: str) -> None:
        """Replay all requests that a worker runs: a message, and with it tokens, was lost."""
        log.error("a message from %s was lost; replaying its requests", worker_id)
        flights = self._loads.remove_all(worker_id)
        if flights:
            self._sender.abort(worker_id, flights)
        for flight in flights.values():
            self._replay(flight, worker_id, is_blamed=True)

    def _replay(self, flight: Flight, worker_id: str, is_blamed: bool) -> None:
        flight.begin_failover()
        flight.failures += is_blamed
        is_endless = flight.replays > self._max_replays + MAX_UNEXPLAINED_REPLAYS
        if flight.failures > self._max_replays or is_endless:
            log.error("giving up request %s: all workers that ran it failed", flight.wire_id)
            flight.fail(RequestLost(QUARANTINED))
        else:
            self._on_replay(flight.group, worker_id)
            self._sender.send_to_best(flight)
