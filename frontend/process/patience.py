"""How long a slow client is waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

_LOOK_S = 1.0


class Patience(NamedTuple):
    """Bounds of waiting: a number of seconds, and as many as what moves takes at the least rate.

    rate: in bytes a second; 0: any progress begins the seconds anew.
    """

    timeout_s: float
    rate: int

    def left_s(self, waited_s: float, moved: int) -> float:
        """Return for how many seconds more to wait. moved: bytes meanwhile."""
        return self.timeout_s + (moved / self.rate if self.rate else 0.0) - waited_s

    async def wait(self, wait: Callable[[], Awaitable[object]], left: Callable[[], int]) -> bool:
        """Wait for a client that reads; return False if it is too slow.

        wait: waits until there is room; called again and again. left: returns how many bytes the
        client has not read.
        """
        begun_at, before = time.monotonic(), left()
        while True:
            try:
                async with asyncio.timeout(min(_LOOK_S, self.timeout_s)):
                    await wait()
                    return True
            except TimeoutError:
                now, moved = time.monotonic(), before - left()
                if self.rate == 0 and moved > 0:
                    begun_at, before = now, left()
                elif self.left_s(now - begun_at, moved) <= 0:
                    return False
