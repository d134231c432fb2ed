"""The way to the service of the Responses API, which is loaded when it is needed.

The types of the `openai` package take 0.4 s to import, the database's package 0.1 s more: a
frontend is to serve before that, and streams are to go on meanwhile.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.frontend.context import Context
from headrace.frontend.critical_task import create_vital_task
from headrace.protocol.config import PoolConfig

if TYPE_CHECKING:
    from headrace.frontend.responses.service import ResponsesService

# How often it is looked whether another frontend has begun to store responses.
LOOK_S = 1.0


class LazyResponsesService:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._service: ResponsesService | None = None
        self._lock = asyncio.Lock()
        self._look: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve, and go on with what other frontends have left."""
        self._look = create_vital_task(self._load_when_needed())

    async def stop(self) -> None:
        if self._look is not None:
            self._look.cancel()
        if self._service is not None:
            await self._service.stop()

    async def service(self) -> "ResponsesService":
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
            if _may_hold_work(self._context.config):
                await self.service()
            await asyncio.sleep(LOOK_S)


def _may_hold_work(config: PoolConfig) -> bool:
    """Whether there may be responses in the store. A file that is not there holds none."""
    scheme, _, path = config.response_store.partition(":///")
    return scheme != "sqlite" or Path(path).exists()
