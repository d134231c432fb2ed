"""Turns at something scarce: by client, of each the newest first, none after a long wait."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WaitTimeout(Exception):
    """No turn came in time, or too many newer ones wait."""


class FairSemaphore:
    """Under a flood the newest have a turn within one turn's time, and those before them are told
    to come again. In the order of arrival all would wait as long as anybody may, and then fail.
    Clients take turns, so that a flood of one does not keep another from the next turn.

    places: turns at once. most_waiting: of more, the oldest of the client that has most gives up.
    longest_s: of a wait.
    """

    def __init__(self, places: int, most_waiting: int, longest_s: float) -> None:
        self._free = places
        self._most_waiting = most_waiting
        self._longest_s = longest_s
        # By client, whoever had a turn last at the end; none of the lists is empty.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def acquire(self, client: str = "") -> AsyncIterator[None]:
        """Have a turn inside. WaitTimeout if there is none to be had."""
        await self._take(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _take(self, client: str) -> None:
        if self._free:
            self._free -= 1
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(given)
        if sum(map(len, self._waiting.values())) > self._most_waiting:
            self._give_up_oldest()
        try:
            async with asyncio.timeout(self._longest_s):
                await given
        except BaseException as error:
            if given in self._waiting.get(client, ()):
                self._remove(client, given)
            elif not given.cancelled() and given.exception() is None:
                self._pass_on()  # it came as the wait was given up
            if isinstance(error, TimeoutError):
                raise WaitTimeout from None
            raise

    def _give_up_oldest(self) -> None:
        client = max(self._waiting, key=lambda client: len(self._waiting[client]))
        given = self._waiting[client][0]
        self._remove(client, given)
        if not given.done():  # else it was cancelled
            given.set_exception(WaitTimeout)

    def _remove(self, client: str, given: asyncio.Future[None]) -> None:
        self._waiting[client].remove(given)
        if not self._waiting[client]:
            del self._waiting[client]

    def _pass_on(self) -> None:
        """To the newest that still waits of the client whose turn it is; cancelled ones have not
        been taken out yet."""
        while self._waiting:
            client, waiting = next(iter(self._waiting.items()))
            given = waiting.pop()
            del self._waiting[client]
            if waiting:
                self._waiting[client] = waiting  # after all others
            if not given.done():
                given.set_result(None)
                return
        self._free += 1
