"""What the scheduler asks of a runner that keeps what it hears of windows."""

from typing import Protocol


class WindowSlots(Protocol):
    """Slots for windows of recordings, by the digests of their features."""

    def begin_step(self) -> None:
        """Count the windows of the next step from 0."""
        ...

    def admits(self, digest: bytes, *, beside_decodes: bool) -> bool:
        """Return whether a request for a window may join the next step."""
        ...

    def join(self, digest: bytes) -> None:
        """Let one more request use a window's slot; `admits` has been asked before."""
        ...

    def leave(self, digest: bytes) -> None:
        """Take one request away from a window that it has joined."""
        ...

    def take_seconds(self) -> float:
        """Return the seconds that encoding windows has taken since the last call."""
        ...
