"""A semaphore that is fair to clients, and serves the newest waiter of each first."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WaitTimeout(Exception):
    """No permit was available in time, or too many newer requests wait."""


class FairSemaphore:
    """Grants permits to clients in turn, and to the newest waiter of each client first.

    Under a flood of requests, the newest are served at once and the oldest are rejected so that
    they are retried. In order of arrival all would wait as long as possible, and then fail. Serving
    clients in turn keeps a flood of one client from starving another.

    permits: held at once.
    max_waiting: if more wait, the oldest waiter of the client with most waiters is rejected.
    max_wait_s: seconds that one may wait.
    """

    def __init__(self, permits: int, max_waiting: int, max_wait_s: float) -> None:
        self._free = permits
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        # By client, the one that had a permit most recently last; no list is empty.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def acquire(self, client: str = "") -> AsyncIterator[None]:
        """Hold a permit inside the context. Raises WaitTimeout if none is available."""
        await self._wait(client)
        try:
            yield
        finally:
            self._release()

    async def _wait(self, client: str) -> None:
        if self._free:
            self._free -= 1
            return
        permit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(permit)
        if sum(map(len, self._waiting.values())) > self._max_waiting:
            self._reject_oldest()
        try:
            async with asyncio.timeout(self._max_wait_s):
                await permit
        except BaseException as error:
            if permit in self._waiting.get(client, ()):
                self._remove(client, permit)
            elif not permit.cancelled() and permit.exception() is None:
                self._release()  # it came just as the wait ended
            if isinstance(error, TimeoutError):
                raise WaitTimeout from None
            raise

    def _reject_oldest(self) -> None:
        client = max(self._waiting, key=lambda client: len(self._waiting[client]))
        permit = self._waiting[client][0]
        self._remove(client, permit)
        if not permit.done():  # otherwise it was cancelled
            permit.set_exception(WaitTimeout)

    def _remove(self, client: str, permit: asyncio.Future[None]) -> None:
        self._waiting[client].remove(permit)
        if not self._waiting[client]:
            del self._waiting[client]

    def _release(self) -> None:
        """Pass the permit to the newest waiter of the next client.

        Cancelled waiters may still be in the lists.
        """
        while self._waiting:
            client, waiting = next(iter(self._waiting.items()))
            permit = waiting.pop()
            del self._waiting[client]
            if waiting:
                self._waiting[client] = waiting  # after all other clients
            if not permit.done():
                permit.set_result(None)
                return
        self._free += 1
