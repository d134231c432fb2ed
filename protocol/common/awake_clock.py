"""A clock to measure the silence of others by."""

import time
from collections.abc import Callable


class AwakeClock:
    """Monotonic seconds without those in which this process did not run: stopped, frozen with its
    container, or starved.

    What others said meanwhile has not been read yet when it goes on, and without this it would take
    everybody for dead. Ask it all the time; a gap of more than `longest_turn_s` was a pause.
    """

    def __init__(
        self, longest_turn_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._longest_turn_s, self._clock = longest_turn_s, clock
        self._asked_at = clock()
        self._lost_s = 0.0

    def now(self) -> float:
        now = self._clock()
        gap_s, self._asked_at = now - self._asked_at, now
        if gap_s > self._longest_turn_s:
            self._lost_s += gap_s
        return now - self._lost_s
