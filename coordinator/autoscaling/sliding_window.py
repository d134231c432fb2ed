"""The maximum or minimum of recent values."""

from collections import deque
from collections.abc import Callable


class SlidingWindow:
    """The maximum or minimum (`pick`) of the values of the last `length_s` seconds.

    Amortized constant time for each value: values that can never be picked again are dropped.
    """

    def __init__(self, length_s: float, pick: Callable[[float, float], float]) -> None:
        self._length_s, self._pick = length_s, pick
        self._seen: deque[tuple[float, float]] = deque()
        self._since: float | None = None

    def add(self, at: float, value: float) -> None:
        """Add a value. at: seconds of a monotonic clock."""
        if self._since is None:
            self._since = at
        while self._seen and self._pick(self._seen[-1][1], value) == value:
            self._seen.pop()
        self._seen.append((at, value))
        while self._seen[0][0] < at - self._length_s and len(self._seen) > 1:
            self._seen.popleft()

    def picked(self, at: float) -> float | None:
        """Return the picked value; None until values cover the window's length."""
        if self._since is None or at - self._since < self._length_s:
            return None
        return self._seen[0][1]

    def clear(self) -> None:
        """Drop all values."""
        self._seen.clear()
        self._since = None
