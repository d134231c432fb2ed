"""Delay the restart of a replica slot whose processes fail soon after a start."""

import math
from dataclasses import dataclass

LONGEST_DELAY_S = 30.0
# A process that has served for so long was not part of a crash loop.
STEADY_S = 5.0
# This many failures in a row, or more, are a crash loop.
CRASH_LOOP = 3


@dataclass
class RestartBackoff:
    """The starts and failures of one replica slot ("chat-0").

    problem: why it is empty, in words; "" if nothing is wrong.
    Times are in seconds of one monotonic clock.
    """

    slot: str
    problem: str = ""
    _failures: int = 0
    _not_before: float = -math.inf
    _ready_at: float | None = None
    _last_start: int = -1

    def forget_failures(self) -> None:
        """Start over: the slot has been removed, or added again."""
        self.problem = ""
        self._failures = 0
        self._not_before = -math.inf

    def allowed(self, now: float) -> bool:
        """Return whether a process may be started now."""
        return now >= self._not_before

    def next_id(self) -> str:
        """Return the id of the next start: "chat-0.3" is the fourth."""
        return f"{self.slot}.{self._last_start + 1}"

    @property
    def last_id(self) -> str:
        return f"{self.slot}.{self._last_start}"

    def note_start(self, process_id: str) -> None:
        """Note the id of a process that this coordinator or a previous one has started."""
        self._last_start = max(self._last_start, int(process_id.rpartition(".")[2]))

    def ready(self, now: float) -> None:
        """Note that the slot's process is ready, or has started if it never reports that."""
        self._ready_at = now
        self.problem = ""

    def failed(self, reason: str, now: float, hopeless: bool) -> float:
        """Note that a process has failed; return the seconds until the next start.

        hopeless: the process has reported that another start would fail, too.
        """
        if self._ready_at is not None and now - self._ready_at >= STEADY_S:
            self._failures = 0
        self._ready_at = None
        self._failures += 1
        delay_s = 0.0 if self._failures == 1 else 0.5 * 2.0 ** min(self._failures - 2, 10)
        delay_s = LONGEST_DELAY_S if hopeless else min(delay_s, LONGEST_DELAY_S)
        self._not_before = now + delay_s
        if hopeless or self._failures >= CRASH_LOOP:
            self.problem = f"{self.slot}: {self._failures} in a row have failed; the last: {reason}"
        return delay_s
