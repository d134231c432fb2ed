"""Measure how long other processes have been silent, while this one ran."""

import time
from collections.abc import Callable


class AwakeClock:
    """A monotonic clock that stands still while this process does not run: while it is stopped,
    frozen with its container, or starved.

    Messages that arrived meanwhile have not been read when the process continues; by another clock
    it would take all others for dead. Call `now` all the time: a gap of more than `longest_gap_s`
    counts as a pause.
    """

    def __init__(
        self, longest_gap_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._longest_gap_s, self._clock = longest_gap_s, clock
        self._asked_at = clock()
        self._lost_s = 0.0

    def now(self) -> float:
        now = self._clock()
        gap_s, self._asked_at = now - self._asked_at, now
        if gap_s > self._longest_gap_s:
            self._lost_s += gap_s
        return now - self._lost_s
