"""Turns at something scarce: the newest first, none after a long wait."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WaitedTooLong(Exception):
    """No turn came in time, or too many newer ones wait."""


class Turns:
    """Under a flood the newest have a turn within one turn's time, and those before them are told
    to come again. In the order of arrival all would wait as long as anybody may, and then fail.

    places: turns at once. most_waiting: the oldest of more gives up. longest_s: of a wait.
    """

    def __init__(self, places: int, most_waiting: int, longest_s: float) -> None:
        self._free = places
        self._most_waiting = most_waiting
        self._longest_s = longest_s
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Have a turn inside. WaitedTooLong if there is none to be had."""
        await self._take()
        try:
            yield
        finally:
            self._pass_on()

    async def _take(self) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= self._most_waiting:
            self._waiting.popleft().set_exception(WaitedTooLong)
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(given)
        try:
            async with asyncio.timeout(self._longest_s):
                await given
        except BaseException as error:
            if given in self._waiting:
                self._waiting.remove(given)
            elif not given.cancelled() and given.exception() is None:
                self._pass_on()  # it came as the wait was given up
            if isinstance(error, TimeoutError):
                raise WaitedTooLong from None
            raise

    def _pass_on(self) -> None:
        """To the newest of those that still wait; cancelled ones have not been taken out yet."""
        while self._waiting:
            given = self._waiting.pop()
            if not given.done():
                given.set_result(None)
                return
        self._free += 1
