"""Drain a frontend: finish the requests in flight and reject new ones with 503.

The socket stays open meanwhile: a client that connects just before the load balancer notices gets
an answer that tells it to retry, instead of a reset connection.

A frontend whose successor already accepts (a rolling restart) rejects nothing: it asks its clients
to open a new connection for their next request, and ends when they have disconnected.

Requests that are not finished in time are interrupted: their clients get an error status, or the
event that ends a stream, instead of a broken connection.
"""

import asyncio
import time
from collections.abc import Callable

# A connection that has not been used for so long is closed when the frontend hands over. It must be
# longer than the pauses of a client that sends one request after another.
QUIET_S = 5.0
_POLL_S = 0.1

# How long clients have to receive the error of an interrupted request.
LAST_WORDS_S = 3.0
# Minimum time for closing idle connections in good order.
CLOSE_S = 0.25


class Drain:
    """Counts the HTTP requests that began before the drain, and interrupts them."""

    def __init__(self) -> None:
        self.has_begun = False
        self.is_handing_over = False
        self._before = 0
        self._changed = asyncio.Event()
        self._is_over = False
        self._interrupts: dict[object, Callable[[], None]] = {}

    def begin_request(self) -> bool:
        """Note that an HTTP request begins. Pass the returned value to `end_request`."""
        is_before = not self.has_begun
        self._before += is_before
        return is_before

    def end_request(self, is_before: bool) -> None:
        """Note that an HTTP request has ended in any way."""
        self._before -= is_before
        self._changed.set()

    @property
    def is_over(self) -> bool:
        """Whether the time to finish requests is over."""
        return self._is_over

    @property
    def keeps_connections(self) -> bool:
        """Whether clients may send another request on their connection."""
        return not self.has_begun and not self.is_handing_over

    async def hand_over_to_successor(self, connections: Callable[[], int]) -> None:
        """Wait until no client needs this frontend any more. connections: returns how many are
        open."""
        self.is_handing_over = True
        quiet_since = time.monotonic()
        while connections():
            if self._before:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= QUIET_S:
                return
            await asyncio.sleep(_POLL_S)

    def watch(self, interrupt: Callable[[], None]) -> Callable[[], None]:
        """Interrupt work when the time to finish it is over; at once, if it is already. Returns a
        function to call when the work has ended."""
        if self._is_over:
            interrupt()
        key = object()
        self._interrupts[key] = interrupt

        def forget() -> None:
            self._interrupts.pop(key, None)

        return forget

    async def finish(self, timeout_s: float) -> float:
        """Drain: wait for the requests in flight, and interrupt those that take longer.

        Returns the seconds that are left to close connections. Later requests are not waited for:
        with clients that keep sending, the drain would never end.
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
        """Wait for the requests from before the drain; return whether they have ended in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._before:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
