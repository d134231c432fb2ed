"""Meter what is used of a limit a minute.

The leaky bucket as a meter, which ITU-T I.371 (annex A) shows to be the same as its generic cell
rate algorithm (GCRA): what is used flows off at the rate of the limit, and more is taken while what
has not flowed off leaves room for it. So after a pause a whole minute's worth is taken at once, and
within any time of t seconds no more than limit * (1 + t / 60).

All numbers are whole: millionths of what is counted, and nanoseconds.
"""

from typing import NamedTuple

MICRO = 1_000_000
_MINUTE_NS = 60_000_000_000


class Level(NamedTuple):
    """What is used of a limit, as of a time.

    limit: how much a minute. used: in millionths. at_ns: by the clock of all processes.
    """

    limit: int
    used: int
    at_ns: int

    def at(self, now_ns: int) -> "Level":
        """Return the level at a later time. A time in the future is from before a boot."""
        passed_ns = max(0, now_ns - self.at_ns)
        leaked = self.limit * MICRO * passed_ns // _MINUTE_NS
        return Level(self.limit, max(0, self.used - leaked), now_ns)

    def has_room(self, count: int, spare: int = 0) -> bool:
        """Return whether so much more may be used, while so much is left.

        An empty bucket takes whatever is not above the limit.
        """
        if not self.used:
            return count <= self.limit
        return self.used + (count + spare) * MICRO <= self.limit * MICRO

    def add(self, count: int) -> "Level":
        """Return the level after more was used, or less than was assumed."""
        return self._replace(used=max(0, self.used + count * MICRO))

    @property
    def remaining(self) -> int:
        """How much may be used now."""
        return max(0, self.limit - -(-self.used // MICRO))

    @property
    def reset_s(self) -> float:
        """After how many seconds nothing is used any more."""
        return self._seconds(self.used)

    def wait_s(self, count: int, spare: int = 0) -> float:
        """Return after how many seconds there is room for so much more."""
        room = max(0, self.limit - count - spare) * MICRO
        return self._seconds(max(0, self.used - room))

    def _seconds(self, used: int) -> float:
        return used * 60 / (self.limit * MICRO)
