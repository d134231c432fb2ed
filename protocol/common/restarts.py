"""When a place may be filled again: at once, unless who was in it died soon after a start."""

import math
from dataclasses import dataclass

LONGEST_DELAY_S = 30.0
# Who has served for so long was no part of a crash loop.
STEADY_S = 5.0
# From this many failures in a row on, the place is said to be in a crash loop.
CRASH_LOOP = 3


@dataclass
class Restarts:
    """The starts and failures of one place, "chat-0" say. `problem` says in words why it is empty,
    "" if nothing is wrong.

    Times are in seconds of one monotonic clock.
    """

    place: str
    problem: str = ""
    _failures: int = 0
    _not_before: float = -math.inf
    _ready_at: float | None = None
    _last_start: int = -1

    def forget_failures(self) -> None:
        """The place is no more, or another time has begun for it."""
        self.problem = ""
        self._failures = 0
        self._not_before = -math.inf

    def allowed(self, now: float) -> bool:
        """Whether a process may be started now."""
        return now >= self._not_before

    def next_id(self) -> str:
        """The id of the next start: "chat-0.3" is the fourth."""
        return f"{self.place}.{self._last_start + 1}"

    @property
    def last_id(self) -> str:
        return f"{self.place}.{self._last_start}"

    def saw(self, process_id: str) -> None:
        """A process of this id has been started, by this coordinator or one before it."""
        self._last_start = max(self._last_start, int(process_id.rpartition(".")[2]))

    def ready(self, now: float) -> None:
        """The place is filled; by one that never says that it is ready, from its start on."""
        self._ready_at = now
        self.problem = ""

    def failed(self, reason: str, now: float, hopeless: bool) -> float:
        """A process has ended unasked. Returns the seconds until the next start.

        hopeless: it said itself that another start would fail alike.
        """
        if self._ready_at is not None and now - self._ready_at >= STEADY_S:
            self._failures = 0
        self._ready_at = None
        self._failures += 1
        delay_s = 0.0 if self._failures == 1 else 0.5 * 2.0 ** min(self._failures - 2, 10)
        delay_s = LONGEST_DELAY_S if hopeless else min(delay_s, LONGEST_DELAY_S)
        self._not_before = now + delay_s
        if hopeless or self._failures >= CRASH_LOOP:
            self.problem = (
                f"{self.place}: {self._failures} in a row have failed; the last: {reason}"
            )
        return delay_s
