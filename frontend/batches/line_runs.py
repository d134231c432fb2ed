"""Run the lines of one batch, as many at a time as the gate allows, and keep their results."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Container, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from headrace.frontend.batches.batch import Progress, StoredBatch
from headrace.frontend.batches.input_lines import BatchLine, LineError, LineReader
from headrace.frontend.batches.journal import BatchJournal, LineResult
from headrace.frontend.batches.line_call import LineAnswer, LineCall
from headrace.frontend.batches.line_gate import LineGate
from headrace.frontend.batches.results import answered, unreadable
from headrace.frontend.principal import KeyRemoved, Principal

# Results are flushed to the disk so often, or when there are so many bytes of them.
FLUSH_S, FLUSH_BYTES = 0.5, 1024 * 1024
# When to look again whether the batch's key is valid: before that its run is ended.
KEY_REMOVED_S = 5.0
# Lines that are held in memory: those that run, and those that must run again.
MAX_HELD_BYTES = 64 * 1024 * 1024


class CallLine(Protocol):
    """Returns the answer to a line."""

    async def __call__(self, call: LineCall) -> LineAnswer: ...


class LineTools(NamedTuple):
    """What runs lines need. group_of: returns the group of the model that a body names.
    on_results: told of each result that is on the disk. principal_of: returns whose a batch is now;
    raises KeyRemoved."""

    call: CallLine
    gate: LineGate
    group_of: Callable[[Any], str]
    on_results: Callable[[Progress], None]
    principal_of: Callable[[StoredBatch], Principal]


class LineRuns:
    """The lines of one run of a batch."""

    def __init__(
        self, batch: StoredBatch, folder: Path, max_body_bytes: int, tools: LineTools
    ) -> None:
        self._batch, self._tools = batch, tools
        self._input, self._max_body_bytes = folder / "input", max_body_bytes
        self._journal = BatchJournal(folder, batch.runs)
        self._tasks: dict[asyncio.Task[None], int] = {}  # with the sizes of their lines
        self._shed: set[asyncio.Task[None]] = set()
        self._read: deque[BatchLine | LineError] = deque()
        self._again: deque[BatchLine] = deque()
        self._pending: list[LineResult] = []
        self._pending_bytes = 0
        self._changed, self._full = asyncio.Event(), asyncio.Event()
        self._flush_lock = asyncio.Lock()
        self._resting_until = 0.0  # because the limits of its key are reached
        self.progress = Progress()

    @property
    def in_flight(self) -> int:
        """How many lines run now."""
        return len(self._tasks)

    async def run(self) -> None:
        """Run all lines that have no result yet. Raises OSError if results cannot be kept.

        However it ends, the results that are there are kept.
        """
        known, self.progress = await asyncio.to_thread(self._journal.known)
        tasks = [asyncio.create_task(self._feed(known)), asyncio.create_task(self._flush_often())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _to_its_end(self._finish([*tasks, *self._tasks]))

    async def _finish(self, tasks: list["asyncio.Task[None]"]) -> None:
        try:
            await _cancel(tasks)
            await self.flush()
        finally:
            self._journal.close()

    async def flush(self) -> None:
        """Write the results that are not on the disk yet. Raises OSError."""
        async with self._flush_lock:
            results, self._pending = self._pending, []
            self._pending_bytes = 0
            self._full.clear()
            if not results:
                return
            try:
                await asyncio.to_thread(self._journal.append, results)
            except BaseException:
                self._pending = results + self._pending
                raise
            for result in results:
                self.progress += result.progress
                self._tools.on_results(result.progress)

    async def _flush_often(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._full.wait()
            await asyncio.shield(self.flush())  # what is being written must be waited for

    # Lines

    async def _feed(self, known: Container[int]) -> None:
        reader = LineReader(self._input, self._batch.endpoint, self._max_body_bytes)
        try:
            while True:
                line = await self._next(reader, known)
                if isinstance(line, LineError):
                    self._keep(unreadable(self._batch.batch_id, line))
                elif line is not None:
                    group = self._tools.group_of(line.body)
                    await asyncio.sleep(max(0.0, self._resting_until - time.monotonic()))
                    await self._tools.gate.enter(group)
                    self._start(line, group)
                    await asyncio.sleep(0)  # many may begin at once: others have their turn between
                elif self._tasks:
                    self._changed.clear()
                    await self._changed.wait()
                elif not self._again:
                    return
        finally:
            reader.close()

    async def _next(
        self, reader: LineReader, known: Container[int]
    ) -> BatchLine | LineError | None:
        """Return the next line to run; None if there is none now."""
        while self._tasks and sum(self._tasks.values()) > MAX_HELD_BYTES:
            self._changed.clear()
            await self._changed.wait()
        if self._again:
            return self._again.popleft()
        if not self._read:
            self._read.extend(await asyncio.to_thread(reader.read, known))
        return self._read.popleft() if self._read else None

    def _start(self, line: BatchLine, group: str) -> None:
        task = asyncio.create_task(self._run_line(line, group))
        self._tasks[task] = line.size

        def stop() -> None:
            self._shed.add(task)
            task.cancel()

        leave = self._tools.gate.add(group, stop)

        def end(task: asyncio.Task[None]) -> None:
            leave()
            del self._tasks[task]
            if task in self._shed and task.cancelled():
                self._again.append(line)
            self._shed.discard(task)
            self._changed.set()

        task.add_done_callback(end)

    async def _run_line(self, line: BatchLine, group: str) -> None:
        request_id = f"{self._batch.batch_id}-{line.number}"
        try:
            key = self._tools.principal_of(self._batch).key
        except KeyRemoved:
            self._run_again(line, KEY_REMOVED_S)
            return
        call = LineCall(self._batch.endpoint, line.body, request_id, key)
        answer = await self._tools.call(call)
        if answer.retry_after_s is None:
            self._keep(answered(self._batch.batch_id, line, answer))
        elif answer.is_key_limited:
            self._run_again(line, answer.retry_after_s)
        else:
            self._tools.gate.pause(group, answer.retry_after_s)
            self._again.append(line)

    def _run_again(self, line: BatchLine, after_s: float) -> None:
        """Run a line again some time later, and no other line of this batch before."""
        self._resting_until = time.monotonic() + after_s
        self._again.append(line)

    def _keep(self, result: LineResult) -> None:
        self._pending.append(result)
        self._pending_bytes += len(result.text)
        if self._pending_bytes >= FLUSH_BYTES:
            self._full.set()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait until work has ended, also if this task is cancelled meanwhile (perhaps once more)."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.cancelled() or task.exception()  # which nobody needs now
        raise cancelled
    task.result()


async def _cancel(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
