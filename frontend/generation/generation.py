"""The texts of one request, each from its own stream of the pool, as one sequence of events."""

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

# Outputs that wait for a client that reads slowly, beyond those that wait in the pool's streams.
QUEUE_OUTPUTS = 64

Event = tuple[Choice, Delta]


class DeltaLog(Protocol):
    """Is told of what is added to the texts of a generation."""

    def add(self, choice: Choice, delta: Delta) -> None: ...


class Generation:
    """Iterates over what is added to the texts, until all have ended. Raises ApiError or PoolError
    if one of them fails; then the request has failed as a whole.

    `close` must be called in the end, whatever happens; it frees the slots of unfinished texts.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        streams: Sequence[OutputStream],
        interval: StreamInterval | None = None,
        deadline: float | None = None,
    ) -> None:
        """interval: None: each output is an event. deadline: on the clock of `time.monotonic`;
        what has not ended by then raises DeadlineExceeded. None: never."""
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
        """Whether there are no more events."""
        return self._unfinished == 0

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> Event:
        if self._unfinished == 0:
            raise StopAsyncIteration
        try:
            return await self._event_in_time()
        except InternalError as error:  # so streams end that are cancelled while they are read
            if self._interruption is None:
                raise
            raise self._interruption from error

    async def _event_in_time(self) -> Event:
        if self._deadline is None:
            return await self._event()
        wait = asyncio.timeout(self._deadline - time.monotonic())
        try:
            async with wait:
                return await self._event()
        except TimeoutError:
            if wait.expired():
                raise DeadlineExceeded from None
            raise

    async def _event(self) -> Event:
        while True:
            if len(self._streams) == 1:  # no queue and no task for the common case
                event = self._take(0, await _next_of(self._streams[0]))
            else:
                event = self._take(*await self._next())
            if event is not None:
                return event

    def ready(self) -> Event | None:
        """The next event if it has come already; None if it has to be waited for. Raises as
        iterating does."""
        if len(self._streams) > 1:
            return None
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineExceeded
        while (output := self._streams[0].ready()) is not None:
            event = self._take(0, output)
            if event is not None:
                return event
        return None

    def _take(self, index: int, output: Output) -> Event | None:
        """The event that an output makes; None if it is held back."""
        choice = self.choices[index]
        delta = choice.take(output)
        if delta.finish_reason is not None:
            self._unfinished -= 1
            if output.finish_reason is None:  # a stop string: the worker does not know yet
                self._streams[index].cancel()
        if self.log is not None:
            self.log.add(choice, delta)
        if self._interval is None:
            return choice, delta
        due = self._interval.add(choice, delta)
        return None if due is None else (choice, due)

    async def _next(self) -> tuple[int, Output]:
        while True:
            index, output = await self._merged().get()
            if isinstance(output, Exception):
                raise output
            if not self.choices[index].finished:
                return index, output

    def _merged(self) -> asyncio.Queue[tuple[int, Output | Exception]]:
        if self._queue is None:
            self._queue = asyncio.Queue(QUEUE_OUTPUTS)
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
                output = await _next_of(stream)
                await queue.put((index, output))
                if output.finish_reason is not None:
                    return
        except Exception as error:  # passed on, to be raised where the events are read
            if not choice.finished:
                await queue.put((index, error))

    def interrupt(self, error: ApiError) -> None:
        """Have whoever reads this told that it is not gone on with; what has come is read first."""
        self._interruption = error
        for stream in self._streams:
            stream.cancel()

    def fail(self) -> None:
        """Note that the request has failed; what is unfinished counts as an error."""
        for choice in self.choices:
            if not choice.finished:
                choice.finish("error")

    def close(self) -> None:
        """Free everything; harmless when all has ended, and a second time."""
        for pump in self._pumps:
            pump.cancel()
        for choice, stream in zip(self.choices, self._streams, strict=True):
            if self._unfinished:
                stream.cancel()
            if not choice.finished:
                choice.finish("abort")
        self._unfinished = 0


async def _next_of(stream: OutputStream) -> Output:
    try:
        return await stream.__anext__()
    except StopAsyncIteration as error:  # a stream must not end without a finish reason
        raise InternalError(FAILURE) from error


@dataclass(slots=True)
class CollectedChoice:
    """A whole text, for an answer in one piece."""

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
    """All texts of a generation, in the order of its choices."""
    collected = [CollectedChoice(choice) for choice in generation.choices]
    try:
        async for choice, delta in generation:
            collected[choice.index].add(delta)
    except Exception:
        generation.fail()
        raise
    return collected
