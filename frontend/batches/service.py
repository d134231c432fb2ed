"""Implement the routes of files and batches."""

import asyncio
import contextlib
import logging
import secrets
from dataclasses import replace
from typing import Any

from quart import Quart

from headrace.frontend.batches.batch import Progress, StoredBatch
from headrace.frontend.batches.batch_run import RunTools
from headrace.frontend.batches.batch_runner import BatchRunner
from headrace.frontend.batches.batch_store import BatchPage, BatchStore, new_batch_id
from headrace.frontend.batches.capacity import Room, room_for_lines
from headrace.frontend.batches.line_call import LineAnswer, LineCall, call_route
from headrace.frontend.batches.line_gate import LineGate
from headrace.frontend.batches.line_runs import LineTools
from headrace.frontend.batches.ownership import BatchOwnership
from headrace.frontend.context import Context
from headrace.frontend.errors import ApiError, BadRequest
from headrace.frontend.files.file_store import FileLimits, FileNotFound, FileStore
from headrace.frontend.files.folder import FileFolder
from headrace.frontend.principal import NOBODY, Principal, restore_principal
from headrace.frontend.schemas.batches import BatchRequest
from headrace.frontend.store.database import Database

log = logging.getLogger("headrace.frontend.batches")

UNAVAILABLE = "The store of files and batches cannot be reached."
NOT_KEPT = (
    "Files and batches are lost when the server ends: it was started without --file-dir and "
    "--response-store-url outside its run directory."
)


class BatchService:
    """Files and batches; needs `start` before use and `stop` after it."""

    def __init__(self, context: Context, app: Quart) -> None:
        """Make the folder of files. Raises OSError if that is impossible."""
        config = context.config
        self._context, self._app = context, app
        self._database = Database(config.response_store, UNAVAILABLE)
        folder = FileFolder(config.files)
        limits = FileLimits(
            config.file_max_bytes,
            config.file_store_max_bytes,
            config.file_store_max_count,
            config.file_store_max_age_s,
        )
        self.files = FileStore(self._database, folder, limits)
        self._store = BatchStore(self._database, folder.volume, config.file_store_max_age_s)
        self._runner = BatchRunner(
            self._store,
            self._run_tools(folder.volume),
            context.metrics.batches,
            self._can_run,
            lambda: context.drain.has_begun or context.drain.is_handing_over,
        )

    def _run_tools(self, volume: str) -> RunTools:
        context = self._context
        gate, owner = LineGate(self._room), self._principal_of
        lines = LineTools(self._call, gate, self._group_of, self._count, owner)
        ownership = BatchOwnership(self._database, volume, secrets.token_hex(8))
        limit = context.config.max_body_bytes
        return RunTools(self.files, ownership, lines, self._model_name, limit)

    def start(self) -> None:
        """Start to run batches."""
        self._runner.start()

    async def stop(self) -> None:
        """Leave running batches to other frontends, and close the store."""
        await self._runner.stop()
        await self._database.finish()

    # What runs need

    def _principal_of(self, batch: StoredBatch) -> Principal:
        """Return whose a batch is, with the key as it is now. Raises KeyRemoved."""
        return restore_principal(self._context.keys, batch.tenant, batch.key_name)

    async def _call(self, call: LineCall) -> LineAnswer:
        return await call_route(self._app, call)

    def _room(self, group: str, lines: int) -> Room:
        config = self._context.config
        return room_for_lines(
            config.group(group), self._context.pool.state, lines, config.batch_share
        )

    def _model_name(self, principal: Principal, model: Any) -> str:
        if model is not None and not isinstance(model, str):
            raise BadRequest("model: must be a string.", "model")
        return replace(self._context, acting_for=principal).model(model).name

    def _group_of(self, body: dict[str, Any]) -> str:
        """Return the group of a body's model; any, if it is not there any more: its route says."""
        context, model = replace(self._context, acting_for=NOBODY), body.get("model")
        with contextlib.suppress(ApiError):
            return context.model(model if isinstance(model, str) else None).group.name
        return context.model(None).group.name

    def _count(self, progress: Progress) -> None:
        self._context.metrics.batches.count_lines(progress.completed, progress.failed)

    def _can_run(self, batch: StoredBatch) -> bool:
        with contextlib.suppress(ApiError):
            return all(self._model_name(NOBODY, model) for model in batch.models or ())
        return False

    # Batches

    async def create(self, request: BatchRequest) -> StoredBatch:
        """Create a batch. Raises ApiError if it cannot be created."""
        principal = self._context.principal
        found = await self.files.get(principal.tenant, request.input_file_id, "input_file_id")
        if found.purpose != "batch":
            raise BadRequest("input_file_id: the file's purpose is not batch.", "input_file_id")
        if not self._context.config.keeps_batches:
            log.warning(NOT_KEPT)
        batch_id, folder = new_batch_id(), self.files.folder
        try:
            await asyncio.to_thread(folder.start_batch, batch_id, found.file_id)
            options = {**request.options(), "key": principal.key_name}
            batch = await self._store.create(batch_id, principal.tenant, options, request.window_s)
        except FileNotFoundError as error:
            raise FileNotFound("input_file_id") from error
        self._runner.poke()
        return batch

    @property
    def _tenant(self) -> str:
        """The tenant of the current HTTP request."""
        return self._context.principal.tenant

    async def get(self, batch_id: str) -> StoredBatch:
        """Return a batch. Raises BatchNotFound if there is none."""
        return await self._store.get(self._tenant, batch_id)

    async def page(self, limit: int, after: str | None) -> BatchPage:
        """Return a page of batches, the newest first. Raises BadRequest for an unknown `after`."""
        return await self._store.page(self._tenant, limit, after)

    async def cancel(self, batch_id: str) -> StoredBatch:
        """Have a batch end. Raises BatchNotFound, or Conflict if it has ended."""
        batch = await self._store.cancel(self._tenant, batch_id)
        self._runner.poke()
        return batch

    @property
    def warning(self) -> str:
        """What creators of files and batches must know; "" if nothing."""
        return "" if self._context.config.keeps_batches else NOT_KEPT
