"""Merge the output streams of a request's choices into one stream of events."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from headrace.frontend.errors import FAILURE, ApiError, DeadlineExceeded, InternalError
from headrace.frontend.generation.awaited_stream import notifying
from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.stream_interval import StreamInterval
from headrace.frontend.pool.interface import OutputStream
from headrace.protocol.to_frontend import Logprobs, Output

Event = tuple[Choice, Delta]


class DeltaLog(Protocol):
    """Gets every delta of a generation, for logging."""

    def add(self, choice: Choice, delta: Delta) -> None: ...


class Generation:
    """Iterates over the additions to the choices, until all have ended.

    Raises ApiError or PoolError if one of them fails; the request has then failed as a whole.
    `close` must always be called in the end; it releases unfinished choices. Instead of being
    iterated over it can be listened to, which needs no task.
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
        self._streams = [notifying(stream) for stream in streams]
        self._unfinished = len(choices)  # choices whose last event has not been read
        self._interruption: ApiError | None = None
        self._arrived: deque[Event | Exception] = deque()  # in their order
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._notify: Callable[[], None] | None = None
        self._is_late = self._is_closed = False

    @property
    def ended(self) -> bool:
        """Return whether there are no more events."""
        return self._unfinished == 0

    @property
    def has_events(self) -> bool:
        """Return whether `ready` has something to return or to raise at once."""
        return bool(self._arrived)

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> Event:
        if self._unfinished == 0:
            raise StopAsyncIteration
        if self._notify is None:
            self.listen(self._wake)
        while (event := self.ready()) is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return event

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def listen(self, notify: Callable[[], None]) -> None:
        """Begin, and call `notify` whenever `ready` has more to return or to raise.

        It may be called before this returns. Outputs are applied to their choices when they come,
        whether anybody reads the events or not: metrics must not depend on the client's pace, and
        a stop string must free its worker.
        """
        self._notify = notify
        if self._deadline is not None:
            delay_s = max(0.0, self._deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_deadline, notify)
        for index, stream in enumerate(self._streams):
            stream.listen(partial(self._on_output, index, notify))

    def _on_output(self, index: int, notify: Callable[[], None]) -> None:
        # A choice that ended with a stop string, of which its worker did not know, may get more.
        if self._is_closed or self.choices[index].finished:
            return
        try:
            event: Event | Exception | None = self._take(index)
        except Exception as error:  # raised where the events are read
            event = error
        if event is not None:
            self._arrived.append(event)
            notify()

    def _on_deadline(self, notify: Callable[[], None]) -> None:
        self._is_late = True
        notify()

    def ready(self) -> Event | None:
        """Return the next event if it has already come; None if it must be waited for.

        Raises what iterating raises.
        """
        if self._is_late:
            raise DeadlineExceeded
        if not self._arrived:
            return None
        event = self._arrived.popleft()
        if isinstance(event, Exception):
            raise event
        choice, delta = event
        choice.completion_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self._unfinished -= 1
        return event

    def _take(self, index: int) -> Event | None:
        """Take the next output of a stream; return the event that it makes, if it makes one."""
        try:
            output = self._streams[index].ready()
        except (StopAsyncIteration, InternalError) as error:  # so end cancelled streams
            if self._interruption is not None:
                raise self._interruption from error
            if isinstance(error, InternalError):
                raise
            raise InternalError(FAILURE) from error  # streams must not end without a finish reason
        return None if output is None else self._apply(index, output)

    def _apply(self, index: int, output: Output) -> Event | None:
        """Return the event that an output makes; None if it is held back."""
        choice = self.choices[index]
        delta = choice.apply(output)
        if delta.finish_reason is not None and output.finish_reason is None:
            self._streams[index].cancel()
        if self.log is not None:
            self.log.add(choice, delta)
        if self._interval is None:
            return choice, delta
        due = self._interval.add(choice, delta)
        return None if due is None else (choice, due)

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
        if self._timer is not None:
            self._timer.cancel()
        self._is_closed = True
        for event in self._arrived:
            if not isinstance(event, Exception):
                event[0].leave_unread(len(event[1].token_ids))
        self._arrived.clear()
        for choice, stream in zip(self.choices, self._streams, strict=True):
            if self._unfinished:
                stream.cancel()
            if not choice.finished:
                choice.finish("abort")
        self._unfinished = 0


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
