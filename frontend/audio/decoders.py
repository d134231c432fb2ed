"""From uploaded files to the features of their windows, in processes that may be killed.

A file is decoded while it is transcribed, two windows ahead. So a file that is transcribed slowly
holds a process but no processor, and files take turns at the processors window by window.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from headrace.frontend.audio.decoder_process import DecoderDied, DecoderProcess
from headrace.frontend.audio.messages import (
    AudioFormat,
    AudioRefusal,
    AudioRejected,
    AudioSummary,
    AudioWindow,
    DecodeFile,
    DecodeNext,
    DecoderAnswer,
)

__all__ = ["AudioDecoders", "AudioFormat", "AudioRejected", "AudioSummary", "AudioWindow"]

log = logging.getLogger("headrace.frontend.decoders")

MAX_FILES = 16  # in progress, each in a process
_MAX_WORKING = 2  # processes that work at the same moment, at most
_IDLE_S = 30.0
_START_DEADLINE_S = 60.0  # it takes a third of a second, longer on a busy machine
_MAX_ATTEMPTS = 2  # a process may die for another reason than its file
# Windows, or a window and the summary, that wait for the consumer: so the process of a recording of
# one window is free for others while that is transcribed.
_AHEAD = 2


class AudioDecoders:
    """The decoder processes of a frontend, started when they are needed.

    size: files in progress; more wait for their turn.
    idle_s: seconds after which a process without a file ends.
    cpus: for processes that work at the same moment.
    """

    def __init__(
        self, size: int = MAX_FILES, idle_s: float = _IDLE_S, cpus: int = _MAX_WORKING
    ) -> None:
        self._turns = asyncio.Semaphore(size)
        self._working = asyncio.Semaphore(max(1, min(cpus, _MAX_WORKING)))
        self._idle_s = idle_s
        self._processes: set[DecoderProcess] = set()
        self._idle: dict[DecoderProcess, asyncio.TimerHandle] = {}  # the last one worked last
        self._is_closed = False

    async def windows(
        self, data: bytes | Path, format: AudioFormat, max_duration_s: float, timeout_s: float
    ) -> AsyncGenerator[AudioWindow | AudioSummary, None]:
        """Yield a file's windows in their order, then the summary.

        max_duration_s: of the recording. Checked while decoding: windows may come before.
        timeout_s: seconds of decoding. Those before the file's turn, and those between a window
            and the request for the next, do not count.
        Raises AudioRejected.
        """
        with await asyncio.to_thread(_open, data) as file, _released(file):
            job = _Job(DecodeFile(format, max_duration_s), file.fileno(), timeout_s)
            parts = _Parts()
            task = asyncio.create_task(self._produce(job, parts))
            try:
                part: AudioWindow | AudioSummary | None = None
                while not isinstance(part, AudioSummary):
                    part = await parts.get()
                    yield part
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _produce(self, job: "_Job", parts: "_Parts") -> None:
        """Hand over a file's windows and its summary, or why there are no more."""
        try:
            async with self._turns:
                for _ in range(_MAX_ATTEMPTS):
                    try:
                        return await self._decode(job, parts)
                    except DecoderDied:
                        log.warning("a process that decodes audio died; it is replaced")
            raise AudioRejected.undecodable()
        except Exception as error:
            parts.put(error)

    async def close(self) -> None:
        """End all processes; files in progress are rejected."""
        self._is_closed = True
        for process in list(self._processes):
            if self._idle.pop(process, None) is None:
                process.end()  # the task that waits for its answer sees its death
            else:
                self._discard(process)

    async def _decode(self, job: "_Job", parts: "_Parts") -> None:
        """Hand over what has not been handed over before. Raises DecoderDied or AudioRejected."""
        process: DecoderProcess | None = None
        is_over = False
        try:
            while not is_over:
                # A file that has ended may leave its process: none is started before it can work.
                async with self._working:
                    if process is None:
                        process = self._take()
                        answer = await self._begin(process, job)
                    else:
                        answer = await job.next(process)
                    is_over = self._tell(answer, job, parts)
                    # Work goes on while the consumer has room: then a short file is soon over.
                    while not (is_over or parts.is_full):
                        is_over = self._tell(await job.next(process), job, parts)
                if not is_over:
                    await parts.wait_for_room()
        finally:
            if process is not None:
                self._give_back(process)

    @staticmethod
    def _tell(
        answer: AudioWindow | AudioSummary | AudioRefusal, job: "_Job", parts: "_Parts"
    ) -> bool:
        """Hand an answer over; return whether it was the last. Raises AudioRejected."""
        if isinstance(answer, AudioRefusal):
            raise AudioRejected(answer.reason)
        if isinstance(answer, AudioSummary) or job.is_new(answer):
            parts.put(answer)
        return isinstance(answer, AudioSummary)

    @staticmethod
    async def _begin(
        process: DecoderProcess, job: "_Job"
    ) -> AudioWindow | AudioSummary | AudioRefusal:
        """Return a process's first answer. Raises DecoderDied, also if it does not start."""
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                await process.ready()
        except TimeoutError as error:
            raise DecoderDied from error
        return await job.first(process)

    def _take(self) -> DecoderProcess:
        if self._is_closed:
            raise AudioRejected.undecodable()
        while self._idle:
            process, timer = self._idle.popitem()
            timer.cancel()
            if process.is_reusable:
                return process
            self._discard(process)
        process = DecoderProcess()
        self._processes.add(process)
        return process

    def _give_back(self, process: DecoderProcess) -> None:
        if self._is_closed or not process.is_reusable:
            self._discard(process)
            return
        loop = asyncio.get_running_loop()
        self._idle[process] = loop.call_later(self._idle_s, self._end_idle, process)

    def _end_idle(self, process: DecoderProcess) -> None:
        del self._idle[process]
        self._discard(process)

    def _discard(self, process: DecoderProcess) -> None:
        self._processes.discard(process)
        process.close()


@contextmanager
def _released(file: BinaryIO) -> Iterator[None]:
    """Free an upload's memory at the end, though an idle process may have it open."""
    try:
        yield
    finally:
        if file.writable():
            file.truncate(0)


class _Parts:
    """What has been decoded and not been taken yet: a few windows, the summary, or an error."""

    def __init__(self) -> None:
        self._parts: deque[AudioWindow | AudioSummary | Exception] = deque()
        self._is_filled, self._has_room = asyncio.Event(), asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._parts) >= _AHEAD

    def put(self, part: AudioWindow | AudioSummary | Exception) -> None:
        self._parts.append(part)
        self._is_filled.set()

    async def get(self) -> AudioWindow | AudioSummary:
        """Return the next part; raises an error that stands in its place."""
        while not self._parts:
            self._is_filled.clear()
            await self._is_filled.wait()
        part = self._parts.popleft()
        self._has_room.set()
        if isinstance(part, Exception):
            raise part
        return part

    async def wait_for_room(self) -> None:
        while self.is_full:
            self._has_room.clear()
            await self._has_room.wait()


class _Job:
    """A file to decode, and what is left of its time."""

    def __init__(self, order: DecodeFile, descriptor: int, timeout_s: float) -> None:
        self._order = order
        self._descriptor = descriptor
        self._timeout_s = timeout_s
        self._left_s = timeout_s
        self._count = 0

    async def first(self, process: DecoderProcess) -> AudioWindow | AudioSummary | AudioRefusal:
        return await self._ask(process, self._order, self._descriptor)

    async def next(self, process: DecoderProcess) -> AudioWindow | AudioSummary | AudioRefusal:
        return await self._ask(process, DecodeNext())

    def is_new(self, window: AudioWindow) -> bool:
        """Return whether no process before has decoded the window; count it then."""
        if window.index != self._count:
            return False
        self._count += 1
        return True

    async def _ask(
        self, process: DecoderProcess, order: DecodeFile | DecodeNext, descriptor: int | None = None
    ) -> AudioWindow | AudioSummary | AudioRefusal:
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._left_s)):
                answer: DecoderAnswer = await process.ask(order, descriptor)
        except TimeoutError:
            reason = f"decoding the file takes more than {self._timeout_s:g} s"
            raise AudioRejected(reason) from None
        finally:
            self._left_s -= time.monotonic() - started_s
        if isinstance(answer, AudioWindow | AudioSummary | AudioRefusal):
            return answer
        raise DecoderDied


def _open(data: bytes | Path) -> BinaryIO:
    """Return a file that a process can be given. Raises AudioRejected if it is empty."""
    if isinstance(data, Path):
        file: BinaryIO = data.open("rb")
    else:
        file = os.fdopen(os.memfd_create("headrace-audio"), "w+b")
        file.write(data)
        file.flush()
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise AudioRejected("the file is empty")
    return file
