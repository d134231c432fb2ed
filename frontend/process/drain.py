"""The end of a frontend: what it has begun it finishes, while it says that it takes no more.

Its socket stays open meanwhile. A probe that finds no listener learns as much as from a 503, but a
client that comes a moment before the balancer hears of it would be cut off instead of being told to
try again.

A frontend whose successor accepts already (a rolling restart) refuses nothing: its clients are told
to open another connection for what they ask next, and it ends when they have gone.

What is not finished in time is interrupted: its client is told so, with a status or with the event
that ends a stream, instead of finding its connection broken.
"""

import asyncio
import time
from collections.abc import Callable

# A connection that has not been used for so long is closed when the frontend leaves. Its client may
# have taken it for open, so it is to be longer than the pauses of one that asks again and again.
QUIET_S = 5.0
_POLL_S = 0.1

# How long clients may take to hear that their requests are not finished.
LAST_WORDS_S = 1.0
# What is left at least for connections that wait for a next request to be closed in order.
CLOSE_S = 0.25


class Drain:
    """Knows which HTTP requests were begun before the end was, and what is to be interrupted."""

    def __init__(self) -> None:
        self.has_begun = False
        self.is_leaving = False
        self._before = 0
        self._changed = asyncio.Event()
        self._is_over = False
        self._interrupts: dict[object, Callable[[], None]] = {}

    def enter(self) -> bool:
        """An HTTP request begins. What this returns is to be given to `leave`."""
        is_before = not self.has_begun
        self._before += is_before
        return is_before

    def leave(self, is_before: bool) -> None:
        """An HTTP request has ended in whatever way."""
        self._before -= is_before
        self._changed.set()

    @property
    def keeps_connections(self) -> bool:
        """Whether clients may ask again on the connection that they have."""
        return not self.has_begun and not self.is_leaving

    async def leave_to_others(self, connections: Callable[[], int]) -> None:
        """Wait until nobody needs this frontend, however long that takes. connections: how many
        it still has."""
        self.is_leaving = True
        quiet_since = time.monotonic()
        while connections():
            if self._before:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= QUIET_S:
                return
            await asyncio.sleep(_POLL_S)

    def watch(self, interrupt: Callable[[], None]) -> Callable[[], None]:
        """Have work interrupted when the time to finish it is over; at once, if it is already.
        Returns what is to be called when the work has ended in whatever way."""
        if self._is_over:
            interrupt()
        key = object()
        self._interrupts[key] = interrupt

        def forget() -> None:
            self._interrupts.pop(key, None)

        return forget

    async def finish(self, timeout_s: float) -> float:
        """Begin the end, wait for what was begun before it, and interrupt what takes longer.
        Returns the seconds that are left to close connections.

        Requests that come after it are not waited for: with clients that ask again and again there
        would be no end.
        """
        self.has_begun = True
        ends_at = time.monotonic() + timeout_s
        if not await self._is_finished(timeout_s):
            self._is_over = True
            for interrupt in list(self._interrupts.values()):
                interrupt()
            ends_at = time.monotonic() + LAST_WORDS_S
            await self._is_finished(LAST_WORDS_S)
        return max(CLOSE_S, ends_at - time.monotonic())

    async def _is_finished(self, timeout_s: float) -> bool:
        """Whether all that was begun before the end has ended within that time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._before:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
