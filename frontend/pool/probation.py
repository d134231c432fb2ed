"""Find the request that kills workers.

Any request that ran in a dead worker may have killed it. If all were run together again, one bad
request would take all others with it, until all have been replayed too often. So requests that two
workers have died with continue one at a time: each is on probation until it has made some progress,
and if a worker dies meanwhile, only the request on probation is blamed.
"""

from collections import deque
from collections.abc import Collection

from headrace.frontend.pool.flight import Flight

SUSPECT_FROM = 2  # workers that died with it
CLEARED_AFTER_TOKENS = 16


class Probation:
    """The suspects among one frontend's flights; at most one of them runs on probation."""

    def __init__(self) -> None:
        self._current: Flight | None = None
        self._cleared_at = 0
        self._waiting: deque[Flight] = deque()

    def __len__(self) -> int:
        """Return the number of suspects that wait for their probation."""
        return len(self._waiting)

    def suspects(self, lost: Collection[Flight]) -> Collection[Flight]:
        """Return the flights of a dead worker that may have killed it."""
        return [self._current] if self._current is not None and self._current in lost else lost

    def may_send(self, flight: Flight) -> bool:
        """Return whether a flight may be sent now; if not, `next` returns it later."""
        if flight.failures < SUSPECT_FROM or flight is self._current:
            return True
        if self._current is not None:
            self._waiting.append(flight)
            return False
        self._current = flight
        self._cleared_at = flight.tokens_so_far + CLEARED_AFTER_TOKENS
        return True

    def on_tokens(self, flight: Flight) -> bool:
        """Note new tokens; return whether the flight was on probation and is now cleared."""
        if flight is not self._current or flight.tokens_so_far < self._cleared_at:
            return False
        self._current = None
        return True

    def on_end(self, flight: Flight) -> bool:
        """Note that a flight has ended; return whether it was on probation."""
        if flight is self._current:
            self._current = None
            return True
        if flight in self._waiting:
            self._waiting.remove(flight)
        return False

    def next(self) -> Flight | None:
        """Return the next suspect to send, if there is one."""
        return self._waiting.popleft() if self._current is None and self._waiting else None
