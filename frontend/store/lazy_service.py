"""Load what needs the database when it is first needed.

The database package takes 0.1 s to import, the types of the `openai` package 0.4 s more: a frontend
must serve before that, and streams must continue meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from headrace.frontend.critical_task import spawn_critical
from headrace.frontend.limited_log import LimitedLog

_limited = LimitedLog(logging.getLogger("headrace.frontend.store"))

# How often to check whether another frontend, or an earlier pool, has left work.
CHECK_S = 1.0


class BackgroundService(Protocol):
    """A service that works in the background between `start` and `stop`."""

    def start(self) -> None:
        """Start to work."""
        ...

    async def stop(self) -> None:
        """Leave the work to other frontends."""
        ...


S = TypeVar("S", bound=BackgroundService)


class LazyService(Generic[S]):
    """Makes a service at the first request, or when there may be work of other frontends.

    load: imports what is needed and returns the service; called in a thread.
    may_have_work: whether the store, or the folder, may hold work.
    """

    def __init__(self, load: Callable[[], S], may_have_work: Callable[[], bool]) -> None:
        self._load, self._may_have_work = load, may_have_work
        self._service: S | None = None
        self._lock = asyncio.Lock()
        self._check: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch for work of other frontends, which this one may have to take over."""
        self._check = spawn_critical(self._load_when_needed())

    async def stop(self) -> None:
        """Stop the service, if it was loaded."""
        if self._check is not None:
            self._check.cancel()
        if self._service is not None:
            await self._service.stop()

    async def service(self) -> S:
        """Return the service; load it in a thread at the first call.

        Raises OSError if it cannot be loaded at the moment, as when its disk is full.
        """
        async with self._lock:
            if self._service is None:
                service = await asyncio.to_thread(self._load)
                service.start()
                self._service = service
            return self._service

    async def _load_when_needed(self) -> None:
        while self._service is None:
            try:
                if self._may_have_work():
                    await self.service()
            except OSError as error:  # the work can wait; requests that need no store cannot
                _limited.warning(f"a store cannot be opened: {error.strerror}")
            await asyncio.sleep(CHECK_S)
