"""Tell processes that cannot be reached from those that are just ending.

A process closes its sockets a moment before its end is reported, and opens them a moment after its
start. A message that misses it then is no failure: each start is followed by a greeting. One that
cannot be reached for longer while it is there is worth a warning.
"""

from collections.abc import Callable

# Longer than the report of an end takes, and than a connection that is made again.
PATIENCE_S = 3.0
AGAIN_S = 60.0


class FailedSends:
    """The receivers that messages could not be sent to, since when, and why."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[float, str]] = {}
        self._warned_at: dict[str, float] = {}

    def failed(self, receiver: str, reason: str, now: float) -> None:
        """Note a message that could not be sent."""
        self._failures.setdefault(receiver, (now, reason))

    def reached(self, receiver: str) -> None:
        """Note a message that was sent to a process, or has come from it."""
        if self._failures:
            self._failures.pop(receiver, None)

    def warnings(self, is_there: Callable[[str], bool], now: float) -> list[str]:
        """Return a line for each receiver that is there and has not been reached for a while.

        is_there: whether a process runs and has greeted. At most a line a minute for each.
        """
        lines: list[str] = []
        for receiver, (since, reason) in list(self._failures.items()):
            if now - since < PATIENCE_S:
                continue
            del self._failures[receiver]
            if is_there(receiver) and now - self._warned_at.get(receiver, -AGAIN_S) >= AGAIN_S:
                self._warned_at[receiver] = now
                lines.append(f"cannot reach {receiver}: {reason}")
        for receiver in [each for each in self._warned_at if not is_there(each)]:
            del self._warned_at[receiver]
        return lines
