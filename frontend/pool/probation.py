"""Who is to blame for a worker that has died.

All that ran in it may have killed it. Were all of it run together again, one request that kills
workers would take every other with it, until all have been replayed too often. So what was there
when two workers died goes on one at a time: it is on probation until it has made some progress, and
if a worker dies meanwhile, the one on probation is to blame and no other.
"""

from collections import deque
from collections.abc import Collection

from headrace.frontend.pool.flight import Flight

SUSPECT_FROM = 2  # workers that died with it
CLEARED_AFTER_TOKENS = 16


class Probation:
    """The suspects among one frontend's flights; at most one of them is under way unproven."""

    def __init__(self) -> None:
        self._now: Flight | None = None
        self._cleared_at = 0
        self._waiting: deque[Flight] = deque()

    def __len__(self) -> int:
        """Flights that wait for their turn."""
        return len(self._waiting)

    def blamed(self, lost: Collection[Flight]) -> Collection[Flight]:
        """Of the flights that a dead worker had those that may have killed it."""
        return [self._now] if self._now is not None and self._now in lost else lost

    def may_go(self, flight: Flight) -> bool:
        """Whether a flight may be sent now; if not, `next` gives it back in its turn."""
        if flight.failures < SUSPECT_FROM or flight is self._now:
            return True
        if self._now is not None:
            self._waiting.append(flight)
            return False
        self._now = flight
        self._cleared_at = flight.tokens_so_far + CLEARED_AFTER_TOKENS
        return True

    def note(self, flight: Flight) -> bool:
        """A flight has got tokens: whether it was on probation and is now cleared."""
        if flight is not self._now or flight.tokens_so_far < self._cleared_at:
            return False
        self._now = None
        return True

    def end(self, flight: Flight) -> bool:
        """A flight has ended: whether it was on probation."""
        if flight is self._now:
            self._now = None
            return True
        if flight in self._waiting:
            self._waiting.remove(flight)
        return False

    def next(self) -> Flight | None:
        """The next one whose turn it is, if it is anyone's."""
        return self._waiting.popleft() if self._now is None and self._waiting else None
