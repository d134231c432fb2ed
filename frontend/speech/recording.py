"""Transcribe a recording: decode it, run its windows at once, and tell them in order."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

from headrace.frontend.audio.messages import AudioRejected, AudioSummary, AudioWindow
from headrace.frontend.errors import ApiError, BadRequest, DeadlineExceeded
from headrace.frontend.speech.audio_source import AudioSource
from headrace.frontend.speech.guards import is_steady
from headrace.frontend.speech.plan import SpeechPlan
from headrace.frontend.speech.results import RecordingEnd, TextPiece, WindowResult
from headrace.frontend.speech.window_task import WindowTask
from headrace.frontend.speech.worker_requests import WorkerRequests, audio_format
from headrace.protocol.common.speech.speech_options import AudioOptions

SpeechEvent = TextPiece | WindowResult | RecordingEnd
_FALLBACK_LANGUAGE = "en"  # of a recording without any window


class Recording:
    """The work on one recording; `close` must always be called in the end.

    options: limits of recordings. deadline: by `time.monotonic`; None: none.
    """

    def __init__(
        self,
        source: AudioSource,
        file: Path,
        plan: SpeechPlan,
        requests: WorkerRequests,
        options: AudioOptions,
        deadline: float | None,
    ) -> None:
        self._source, self._file, self._plan = source, file, plan
        self._requests, self._options, self._deadline = requests, options, deadline
        self._windows: deque[WindowTask] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(options.max_audio_windows)
        self._changed = asyncio.Event()
        self._end: RecordingEnd | None = None
        self._failure: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_told = False  # whether any text has been
        self._separator = " "
        self.has_ended = False

    async def events(self) -> AsyncIterator[SpeechEvent]:
        """Yield pieces of text and finished windows in the order of the recording, then its end.

        A window's pieces come before it; they hold the text between windows, too. Raises what a
        window, the decoder or `interrupt` does.
        """
        self._begin()
        while True:
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            while self._windows:
                window = self._windows[0]
                while window.pieces:
                    if (piece := self._told(window, window.pieces.popleft())) is not None:
                        yield piece
                while window.results:
                    yield window.results.popleft()
                if window.pieces:
                    continue
                if not window.is_finished:
                    break
                self._windows.popleft()
            if self._end is not None and not self._windows:
                self.has_ended = True
                yield self._end
                return
            await self._changed.wait()

    def interrupt(self, error: ApiError) -> None:
        """Stop, and raise this error to the reader."""
        self._fail(error)

    def close(self) -> None:
        """Stop. Has no effect after the end."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _begin(self) -> None:
        if self._deadline is not None:
            delay_s = max(0.0, self._deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(
                delay_s, self._fail, DeadlineExceeded()
            )
        self._spawn(self._decode())

    async def _decode(self) -> None:
        """Start a task for each window, while there is room for it."""
        language = self._plan.language
        parts = self._source.windows(
            self._file,
            audio_format(self._plan),
            self._options.max_audio_decode_duration_s,
            self._options.audio_decode_timeout_s,
        )
        try:
            async with aclosing(parts):
                async for part in parts:
                    if isinstance(part, AudioSummary):
                        self._end = RecordingEnd(part.duration_s, language or _FALLBACK_LANGUAGE)
                        break
                    said = language
                    if said is None:
                        said = await self._requests.detect_language(part)
                        # Noise in front of speech has a language that means nothing.
                        language = None if is_steady(part.change_db) else said
                    self._separator = self._plan.separator(said)
                    await self._start(part, said)
        except AudioRejected as error:
            raise BadRequest(f"file: {error.reason}.", "file") from error
        self._changed.set()

    async def _start(self, window: AudioWindow, language: str) -> None:
        await self._room.acquire()
        self._requests.count_window(window.duration_s)
        task = WindowTask(self._requests, self._plan, window, language, self._changed.set)
        self._windows.append(task)
        self._spawn(task.run()).add_done_callback(lambda _: self._room.release())

    def _told(self, window: WindowTask, piece: TextPiece) -> TextPiece | None:
        """Return a piece as it continues the text so far; None if it adds nothing."""
        text = piece.text
        if not window.has_told:
            text = text.lstrip()
            if not text:
                return None
            window.has_told = True
            if self._is_told:
                text = self._separator + text
        self._is_told = True
        return TextPiece(text, piece.tokens)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            assert isinstance(error, Exception)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """End with the first failure."""
        if self._failure is None:
            self._failure = error
        self.close()
        self._changed.set()
