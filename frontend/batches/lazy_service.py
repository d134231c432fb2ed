"""Load files and batches when they are first needed.

The database package takes 0.1 s to import: a frontend must serve before that.
"""

import asyncio
from typing import TYPE_CHECKING

from quart import Quart

from headrace.frontend.context import Context
from headrace.frontend.critical_task import spawn_critical

if TYPE_CHECKING:
    from headrace.frontend.batches.service import BatchService

# How often to check whether another frontend, or an earlier pool, has left files.
CHECK_S = 1.0


class LazyBatchService:
    """Makes the BatchService at the first request, or when there may be batches to run."""

    def __init__(self, context: Context, app: Quart) -> None:
        self._context, self._app = context, app
        self._service: BatchService | None = None
        self._lock = asyncio.Lock()
        self._check: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch for batches of other frontends, which this one may have to run."""
        self._check = spawn_critical(self._load_when_needed())

    async def stop(self) -> None:
        """Stop the service, if it was loaded."""
        if self._check is not None:
            self._check.cancel()
        if self._service is not None:
            await self._service.stop()

    async def service(self) -> "BatchService":
        """Return the service; load it in a thread at the first call."""
        async with self._lock:
            if self._service is None:
                service = await asyncio.to_thread(self._load)
                service.start()
                self._service = service
            return self._service

    def _load(self) -> "BatchService":
        from headrace.frontend.batches.service import BatchService

        return BatchService(self._context, self._app)

    async def _load_when_needed(self) -> None:
        folder = self._context.config.files / "batches"
        while self._service is None:
            if folder.is_dir():
                await self.service()
            await asyncio.sleep(CHECK_S)
