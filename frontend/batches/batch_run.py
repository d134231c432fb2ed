"""Run one batch: check its input, run its lines, write its files.

A run may end at any moment, and another one, in any frontend, continues from the journal.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from headrace.frontend.batches.batch import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    VALIDATING,
    Progress,
    StoredBatch,
)
from headrace.frontend.batches.batch_files import JoinedFiles, Unfinished, join_results
from headrace.frontend.batches.input_lines import InputCheck, LineError, LineReader
from headrace.frontend.batches.line_runs import LineRuns, LineTools
from headrace.frontend.batches.ownership import BatchOwnership
from headrace.frontend.files.file_store import FileStore
from headrace.frontend.files.folder import derived_file_id
from headrace.frontend.principal import KeyRemoved, Principal

log = logging.getLogger("headrace.frontend.batches")

# Runs that have ended with their frontend and without a result; then the batch is given up.
MAX_FRUITLESS = 8

End = Literal["completed", "expired", "cancelled", "failed"]
_UNFINISHED: dict[End, Unfinished] = {
    EXPIRED: Unfinished(
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    CANCELLED: Unfinished("batch_cancelled", "The batch was cancelled before this request ran."),
}
_GIVEN_UP = "The frontends that ran this batch have ended again and again."


class LostBatch(Exception):
    """Another frontend owns the batch now."""


class RunTools(NamedTuple):
    """What a run needs. model_name: see InputCheck."""

    files: FileStore
    ownership: BatchOwnership
    lines: LineTools
    model_name: Callable[[Principal, Any], str]
    max_body_bytes: int


class BatchRun:
    """A run of one batch that this frontend owns."""

    def __init__(self, batch: StoredBatch, tools: RunTools) -> None:
        self._batch, self._tools = batch, tools
        self._id, self._folder = batch.batch_id, tools.files.folder
        self._lines: LineRuns | None = None
        self._stored = Progress()
        self._cancelled = asyncio.Event()
        self._lost_key = asyncio.Event()
        if batch.status == CANCELLING:
            self._cancelled.set()

    @property
    def tenant(self) -> str:
        """Whose batch it is."""
        return self._batch.tenant

    @property
    def in_flight(self) -> int:
        """How many lines run now."""
        return 0 if self._lines is None else self._lines.in_flight

    def cancel(self) -> None:
        """End the batch with what is done, because a client has cancelled it."""
        self._cancelled.set()

    def check_key(self) -> None:
        """End the batch with what is done, if the key that created it is not valid any more."""
        try:
            self._tools.lines.principal_of(self._batch)
        except KeyRemoved:
            self._lost_key.set()
            self._cancelled.set()

    async def run(self) -> None:
        """Run the batch to its end.

        Raises LostBatch; and OSError or StoreUnavailable, after which it must be run again.
        """
        batch = self._batch
        self.check_key()
        if batch.fruitless > MAX_FRUITLESS:
            await self._fail("server_error", _GIVEN_UP)
        elif self._lost_key.is_set():
            await self._fail("invalid_api_key", KeyRemoved().message)
        elif batch.status == FINALIZING:
            await self._end(COMPLETED)
        elif batch.status != VALIDATING or await self._validate():
            end = await self._run_lines()
            if self._lost_key.is_set():
                await self._fail("invalid_api_key", KeyRemoved().message)
            else:
                await self._end(end)

    async def _fail(self, code: str, message: str) -> None:
        """End the batch with what is done, and an error. Raises LostBatch."""
        await self._end(FAILED, errors=[LineError(code, message, 0).body()])

    async def _validate(self) -> bool:
        """Check the input; return whether its lines may be run."""
        principal = self._tools.lines.principal_of(self._batch)
        check = InputCheck(partial(self._tools.model_name, principal))
        reader = self._reader()
        try:
            while not (self._cancelled.is_set() or check.is_over):
                lines = await asyncio.to_thread(reader.read)
                if not lines:
                    break
                check.add(lines)
        finally:
            reader.close()
        if self._cancelled.is_set():
            return True
        check.end()
        if check.errors:
            errors = [error.body() for error in check.errors]
            await self._store(status=FAILED, failed_at=True, errors=errors, owner=None)
            await asyncio.to_thread(self._folder.remove_batch, self._id)
            return False
        started = {"in_progress_at": True, "total": check.total, "models": check.models}
        if not await self._tools.ownership.move(self._id, VALIDATING, IN_PROGRESS, **started):
            self._cancelled.set()
            await self._store(total=check.total, models=check.models)
        self._batch = self._batch._replace(models=check.models, total=check.total)
        return True

    def _reader(self) -> LineReader:
        folder = self._folder.batch_path(self._id)
        return LineReader(folder / "input", self._batch.endpoint, self._tools.max_body_bytes)

    async def _run_lines(self) -> End:
        """Run the lines that have no result yet; return how the batch ends."""
        if self._cancelled.is_set():
            return CANCELLED
        left_s = await self._tools.ownership.window_left_s(self._batch.expires_at)
        folder = self._folder.batch_path(self._id)
        self._lines = LineRuns(self._batch, folder, self._tools.max_body_bytes, self._tools.lines)
        running = asyncio.create_task(self._lines.run())
        cancelled = asyncio.create_task(self._cancelled.wait())
        try:
            await asyncio.wait(
                (running, cancelled), timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            cancelled.cancel()
            running.cancel()
            (failure,) = await asyncio.gather(running, return_exceptions=True)
        if isinstance(failure, Exception):
            raise failure
        if failure is None:
            done = self._lines.progress
            if done.completed + done.failed < self._batch.total:
                raise OSError("results are missing")  # which the next run makes
            return COMPLETED
        return CANCELLED if self._cancelled.is_set() else EXPIRED

    async def store_progress(self) -> None:
        """Store what is done so far, for those who ask."""
        lines = self._lines
        if lines is not None and lines.progress != self._stored:
            self._stored = lines.progress
            await self._tools.ownership.store_progress(self._id, self._stored)

    # The end

    async def _end(self, end: End, **values: Any) -> None:
        """Write the files of the batch, and store its end. Raises LostBatch."""
        if end == COMPLETED and self._batch.status != FINALIZING:
            move = self._tools.ownership.move
            if not await move(self._id, IN_PROGRESS, FINALIZING, finalizing_at=True):
                end = CANCELLED
        unfinished = _UNFINISHED.get(end) if self._batch.models is not None else None
        joined = await asyncio.to_thread(
            join_results, self._folder, self._batch, unfinished, self._tools.max_body_bytes
        )
        try:
            files = await self._add_files(joined)
        finally:
            for path in (joined.output, joined.errors):
                if path is not None:
                    path.unlink(missing_ok=True)
        done = joined.progress._asdict()
        await self._store(
            status=end, owner=None, in_flight=0, **{f"{end}_at": True}, **files, **done, **values
        )
        await asyncio.to_thread(self._folder.remove_batch, self._id)
        log.info("batch %s has ended: %s", self._id, end)

    async def _add_files(self, joined: JoinedFiles) -> dict[str, str]:
        added = {}
        for kind, path in (("output", joined.output), ("error", joined.errors)):
            if path is not None:
                stored = await self._tools.files.add(
                    path,
                    tenant=self._batch.tenant,
                    purpose="batch_output",
                    filename=f"{self._id}_{kind}.jsonl",
                    expires_after_s=self._batch.options["output_expires_after_s"],
                    file_id=derived_file_id(self._id, kind),
                )
                added[f"{kind}_file_id"] = stored.file_id
        return added

    async def _store(self, **values: Any) -> None:
        if not await self._tools.ownership.update(self._id, **values):
            raise LostBatch
