"""The largest or the smallest of what was seen lately."""

from collections import deque
from collections.abc import Callable


class Window:
    """Of values seen within the last `length_s` seconds, the one that `pick` (max or min) picks.

    Each value costs constant time on average: what can never be picked again is forgotten.
    """

    def __init__(self, length_s: float, pick: Callable[[float, float], float]) -> None:
        self._length_s, self._pick = length_s, pick
        self._seen: deque[tuple[float, float]] = deque()
        self._since: float | None = None

    def add(self, at: float, value: float) -> None:
        """`at`: seconds of a clock that does not go back."""
        if self._since is None:
            self._since = at
        while self._seen and self._pick(self._seen[-1][1], value) == value:
            self._seen.pop()
        self._seen.append((at, value))
        while self._seen[0][0] < at - self._length_s and len(self._seen) > 1:
            self._seen.popleft()

    def picked(self, at: float) -> float | None:
        """None until as much time has been seen as the window is long."""
        if self._since is None or at - self._since < self._length_s:
            return None
        return self._seen[0][1]

    def clear(self) -> None:
        """Begin anew."""
        self._seen.clear()
        self._since = None
