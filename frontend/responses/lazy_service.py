"""Load the service of the Responses API when it is first needed.

The types of the `openai` package take 0.4 s to import, the database package 0.1 s more: a frontend
must serve before that, and streams must continue meanwhile.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.frontend.context import Context
from headrace.frontend.critical_task import spawn_critical
from headrace.protocol.config import PoolConfig

if TYPE_CHECKING:
    from headrace.frontend.responses.service import ResponsesService

# How often to check whether another frontend has begun to store responses.
CHECK_S = 1.0


class LazyResponsesService:
    """Makes the ResponsesService at the first request, or when the store may hold work."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._service: ResponsesService | None = None
        self._lock = asyncio.Lock()
        self._check: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch for responses of other frontends, which this one may have to take over."""
        self._check = spawn_critical(self._load_when_needed())

    async def stop(self) -> None:
        """Stop the service, if it was loaded."""
        if self._check is not None:
            self._check.cancel()
        if self._service is not None:
            await self._service.stop()

    async def service(self) -> "ResponsesService":
        """Return the service; load it in a thread at the first call."""
        async with self._lock:
            if self._service is None:
                service = await asyncio.to_thread(self._load)
                service.start()
                self._service = service
            return self._service

    def _load(self) -> "ResponsesService":
        from headrace.frontend.responses.service import ResponsesService

        return ResponsesService(self._context)

    async def _load_when_needed(self) -> None:
        while self._service is None:
            if _may_hold_responses(self._context.config):
                await self.service()
            await asyncio.sleep(CHECK_S)


def _may_hold_responses(config: PoolConfig) -> bool:
    """Return whether the store may hold responses: a SQLite file that is absent holds none."""
    scheme, _, path = config.response_store.partition(":///")
    return scheme != "sqlite" or Path(path).exists()
