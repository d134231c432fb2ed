"""Merge the output streams of a request's choices into one stream of events."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.frontend.errors import FAILURE, ApiError, DeadlineExceeded, InternalError
from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.stream_interval import StreamInterval
from headrace.frontend.pool.interface import OutputStream
from headrace.protocol.to_frontend import Logprobs, Output

# Outputs that wait for a slow client, besides those that wait in the pool's streams.
MAX_QUEUED_OUTPUTS = 64

Event = tuple[Choice, Delta]


class DeltaLog(Protocol):
    """Gets every delta of a generation, for logging."""

    def add(self, choice: Choice, delta: Delta) -> None: ...


class Generation:
    """Iterates over the additions to the choices, until all have ended.

    Raises ApiError or PoolError if one of them fails; the request has then failed as a whole.
    `close` must always be called in the end; it releases unfinished choices.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        streams: Sequence[OutputStream],
        interval: StreamInterval | None = None,
        deadline: float | None = None,
    ) -> None:
        """Create a generation.

        choices, streams: each choice with its stream.
        interval: joins deltas into larger events; None: each output is an event.
        deadline: on the clock of `time.monotonic`; after it, iterating raises DeadlineExceeded.
            None: no deadline.
        """
        self.choices = choices
        self.log: DeltaLog | None = None
        self._interval = interval
        self._deadline = deadline
        self._streams = streams
        self._unfinished = len(choices)
        self._interruption: ApiError | None = None
        self._queue: asyncio.Queue[tuple[int, Output | Exception]] | None = None
        self._pumps: list[asyncio.Task[None]] = []

    @property
    def ended(self) -> bool:
        """Return whether there are no more events."""
        return self._unfinished == 0

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> Event:
        if self._unfinished == 0:
            raise StopAsyncIteration
        try:
            return await self._next_event_in_time()
        except InternalError as error:  # a stream that is cancelled while it is read ends like this
            if self._interruption is None:
                raise
            raise self._interruption from error

    async def _next_event_in_time(self) -> Event:
        if self._deadline is None:
            return await self._next_event()
        timeout = asyncio.timeout(self._deadline - time.monotonic())
        try:
            async with timeout:
                return await self._next_event()
        except TimeoutError:
            if timeout.expired():
                raise DeadlineExceeded from None
            raise

    async def _next_event(self) -> Event:
        while True:
            if len(self._streams) == 1:  # the common case needs neither queue nor tasks
                event = self._apply(0, await _next_from(self._streams[0]))
            else:
                event = self._apply(*await self._next_output())
            if event is not None:
                return event

    def ready(self) -> Event | None:
        """Return the next event if it has already come; None if it must be waited for.

        Raises what iterating raises.
        """
        if len(self._streams) > 1:
            return None
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineExceeded
        while (output := self._streams[0].ready()) is not None:
            event = self._apply(0, output)
            if event is not None:
                return event
        return None

    def _apply(self, index: int, output: Output) -> Event | None:
        """Return the event that an output makes; None if it is held back."""
        choice = self.choices[index]
        delta = choice.apply(output)
        if delta.finish_reason is not None:
            self._unfinished -= 1
            if output.finish_reason is None:  # a stop string, which the worker does not know of
                self._streams[index].cancel()
        if self.log is not None:
            self.log.add(choice, delta)
        if self._interval is None:
            return choice, delta
        due = self._interval.add(choice, delta)
        return None if due is None else (choice, due)

    async def _next_output(self) -> tuple[int, Output]:
        while True:
            index, output = await self._merged_queue().get()
            if isinstance(output, Exception):
                raise output
            if not self.choices[index].finished:
                return index, output

    def _merged_queue(self) -> asyncio.Queue[tuple[int, Output | Exception]]:
        if self._queue is None:
            self._queue = asyncio.Queue(MAX_QUEUED_OUTPUTS)
            self._pumps = [
                asyncio.create_task(self._pump(index, stream, self._queue))
                for index, stream in enumerate(self._streams)
            ]
        return self._queue

    async def _pump(
        self,
        index: int,
        stream: OutputStream,
        queue: asyncio.Queue[tuple[int, Output | Exception]],
    ) -> None:
        choice = self.choices[index]
        try:
            while not choice.finished:
                output = await _next_from(stream)
                await queue.put((index, output))
                if output.finish_reason is not None:
                    return
        except Exception as error:  # raised where the events are read
            if not choice.finished:
                await queue.put((index, error))

    def interrupt(self, error: ApiError) -> None:
        """Cancel the streams, and raise this error to the reader after the pending events."""
        self._interruption = error
        for stream in self._streams:
            stream.cancel()

    def fail(self) -> None:
        """Record that the request has failed: unfinished choices count as errors."""
        for choice in self.choices:
            if not choice.finished:
                choice.finish("error")

    def close(self) -> None:
        """Release everything. Has no effect after the end, or when called again."""
        for pump in self._pumps:
            pump.cancel()
        for choice, stream in zip(self.choices, self._streams, strict=True):
            if self._unfinished:
                stream.cancel()
            if not choice.finished:
                choice.finish("abort")
        self._unfinished = 0


async def _next_from(stream: OutputStream) -> Output:
    try:
        return await stream.__anext__()
    except StopAsyncIteration as error:  # streams must not end without a finish reason
        raise InternalError(FAILURE) from error


@dataclass(slots=True)
class CollectedChoice:
    """A choice whose deltas are collected, for an answer in one piece."""

    choice: Choice
    parts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    prompt_logprobs: tuple[Logprobs, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        self.parts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        if delta.admission is not None and delta.admission.prompt_logprobs is not None:
            self.prompt_logprobs = delta.admission.prompt_logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason

    @property
    def text(self) -> str:
        return "".join(self.parts)


async def collect(generation: Generation) -> list[CollectedChoice]:
    """Run a generation to its end and return its choices."""
    collected = [CollectedChoice(choice) for choice in generation.choices]
    try:
        async for choice, delta in generation:
            collected[choice.index].add(delta)
    except Exception:
        generation.fail()
        raise
    return collected
