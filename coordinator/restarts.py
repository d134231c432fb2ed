"""When a group's workers may be started again: at once after one failure, then ever later."""

import math
from dataclasses import dataclass, field

LONGEST_DELAY_S = 30.0
# A worker that has been ready for so long was no part of a crash loop.
STEADY_S = 60.0
# From this many failures in a row on, the group is said to be in a crash loop.
CRASH_LOOP = 3


@dataclass
class Restarts:
    """The failures of one group. `problem` says in words why it lacks workers, "" if it does not.

    Times are in seconds of one monotonic clock.
    """

    problem: str = ""
    _failures: int = 0
    _not_before: float = -math.inf
    _ready_at: float | None = None
    _starts: dict[str, int] = field(default_factory=dict)

    def allowed(self, now: float) -> bool:
        """Whether a worker may be started now."""
        return now >= self._not_before

    def next_start(self, place: str) -> int:
        """The number of the next start in a place of the group, from 0."""
        return self._starts.get(place, -1) + 1

    def saw(self, worker_id: str) -> None:
        """A worker of this id has been started, by this coordinator or one before it."""
        place, _, start = worker_id.rpartition(".")
        self._starts[place] = max(self._starts.get(place, -1), int(start))

    def started(self, now: float) -> None:
        """A process has been started, of those that never say that they are ready."""
        self._ready_at = now

    def ready(self, now: float) -> None:
        self.started(now)
        self.problem = ""

    def failed(self, reason: str, now: float, hopeless: bool) -> float:
        """A worker has ended unasked. Returns the seconds until the next start.

        hopeless: it said itself that another start would fail alike.
        """
        if self._ready_at is not None and now - self._ready_at > STEADY_S:
            self._failures = 0
        self._ready_at = None
        self._failures += 1
        delay_s = 0.0 if self._failures == 1 else 0.5 * 2.0 ** min(self._failures - 2, 10)
        delay_s = LONGEST_DELAY_S if hopeless else min(delay_s, LONGEST_DELAY_S)
        self._not_before = now + delay_s
        if hopeless or self._failures >= CRASH_LOOP:
            self.problem = f"{self._failures} in a row have failed; the last: {reason}"
        return delay_s
