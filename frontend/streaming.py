"""Server-sent events: the chunks of a generation, its end, or an error.

A stream that has begun ends with either its last chunk or one error event, and then, in OpenAI's
APIs, [DONE]. Proxies close connections on which nothing comes for a while, so a stream begins, and
says that it lives, when there has been nothing to send for an interval.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from quart import Response

from headrace.frontend.errors import ApiError
from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.generation import Event, Generation
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.errors import api_error
from headrace.frontend.openai_api.common import encode_json

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

# A comment, which clients ignore.
KEEP_ALIVE = ": keep-alive\n\n"

# Events that are sent in one piece, at most: other streams must get their turn.
MAX_EVENTS = 64


class Chunks(Protocol):
    """An API's format of a stream; each method returns the text of whole events, or ""."""

    def first(self, choices: Sequence[Choice]) -> str: ...

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str: ...

    def last(self, choices: Sequence[Choice]) -> str: ...


class Framing(NamedTuple):
    """What an API's streams hold besides their chunks.

    error: returns the event of a failure. done: ends every stream. keep_alive: says nothing.
    """

    error: Callable[[ApiError], str]
    done: str
    keep_alive: str = KEEP_ALIVE


OPENAI = Framing(lambda error: f"data: {encode_json(error.body())}\n\n", "data: [DONE]\n\n")


async def stream_response(
    generation: Generation, chunks: Chunks, framing: Framing = OPENAI, *, keep_alive_s: float = 0.0
) -> Response:
    """Return the answer as a stream of events.

    Waits for the first output, so that a request that cannot run gets a proper status, but no
    longer than the first interval. Raises what the generation raises until then.

    keep_alive_s: seconds without an event after which the stream says that it lives; 0: never.
    """
    stream = EventStream(generation, chunks, framing, keep_alive_s)
    try:
        await stream.begin()
    except Exception:
        generation.fail()
        raise
    response = Response(stream, headers=HEADERS, content_type="text/event-stream; charset=utf-8")
    response.timeout = None  # a long output may take any time
    return response


class SilenceTimer:
    """Calls a function each time that nothing has been sent for an interval, until it is stopped.

    It has one timer for each interval, however many events are sent.
    """

    def __init__(
        self, interval_s: float, on_silence: Callable[[], None], waited_s: float = 0.0
    ) -> None:
        """Start the timer. interval_s: 0: never call. waited_s: how long ago the silence began."""
        self._loop = asyncio.get_running_loop()
        self._interval_s, self._on_silence = interval_s, on_silence
        self._sent_at = self._loop.time() - waited_s
        self._handle: asyncio.TimerHandle | None = None
        if interval_s > 0:
            delay_s = max(0.0, interval_s - waited_s)
            self._handle = self._loop.call_later(delay_s, self._look)

    @property
    def is_due(self) -> bool:
        """Return whether nothing has been sent for the interval."""
        return 0 < self._interval_s <= self._loop.time() - self._sent_at

    def note_sent(self) -> None:
        """Note that something is sent now."""
        self._sent_at = self._loop.time()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._interval_s = 0

    def _wait(self) -> None:
        silent_s = self._loop.time() - self._sent_at
        # If nothing could be sent at the end of an interval, look again after another.
        delay_s = self._interval_s - silent_s if silent_s < self._interval_s else self._interval_s
        self._handle = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        if self.is_due:
            self._on_silence()
        if self._interval_s > 0:
            self._wait()


class ClientWait:
    """Sums up the seconds for which a stream has had events that its client was not ready for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since_s: float | None = None

    def begin(self) -> None:
        """Note that there is an event while an earlier piece is still being sent."""
        if self._since_s is None:
            self._since_s = time.monotonic()

    def end(self) -> None:
        """Note that the piece has been sent."""
        if self._since_s is not None:
            self.seconds += time.monotonic() - self._since_s
            self._since_s = None


class EventStream:
    """The body of a streamed response: yields pieces of all events that are there when one is sent,
    single events while the client and this process keep up, more when they do not.

    It is iterated over by the task of its request. While that task waits for a piece, those that
    can be sent without waiting are written straight to the connection: that needs no task switch,
    and none of the server's layers, which take most of an event's time.
    """

    def __init__(
        self, generation: Generation, chunks: Chunks, framing: Framing, keep_alive_s: float
    ) -> None:
        self._generation, self._chunks, self._framing = generation, chunks, framing
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # of the request
        scope = request_scope.current_or_none()
        self._write = None if scope is None else scope.write_body
        self._text = ""  # to be sent before all else
        self._waiter: asyncio.Future[None] | None = None
        self._is_scheduled = self._is_open = self._has_begun = self._has_ended = False
        self._is_sending = False  # the request's task waits until its client has room
        self._client_wait = ClientWait()
        waited_s = 0.0 if scope is None else time.monotonic() - scope.started
        self._silence = SilenceTimer(keep_alive_s, self._on_silence, waited_s)
        if scope is not None:
            scope.cleanups += (self._silence.stop, self._record_client_wait)

    async def begin(self) -> None:
        """Wait for the first event or the end of the first interval; raise the generation's
        errors."""
        self._generation.listen(self._on_output)
        while not self._text:
            event = self._generation.ready()
            if event is not None:
                self._text = self._render(event)
            else:
                await self._wait()
        self._is_open = True

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> bytes:
        if self._is_sending and self._generation.has_events:
            # A connection that is gone takes a whole backlog without waiting, and nothing tells
            # its request so before others get their turn.
            await asyncio.sleep(0)
        self._is_sending = False
        self._client_wait.end()
        while not (text := self._next_text()):
            if self._has_ended:
                raise StopAsyncIteration
            await self._wait()
        self._silence.note_sent()
        self._is_sending = True
        return text.encode()

    def _next_text(self) -> str:
        """Return the events that are there, up to a limit; "" if there are none."""
        if self._text:
            text, self._text = self._text, ""
            return text
        pieces: list[str] = []
        try:
            while len(pieces) < MAX_EVENTS and not self._has_ended:
                event = self._generation.ready()
                if event is None:
                    break
                pieces.append(self._render(event))
        except Exception as error:
            self._generation.fail()
            self._has_ended = True
            pieces += (self._framing.error(api_error(error)), self._framing.done)
        return "".join(pieces)

    def _render(self, event: Event) -> str:
        """Return the text of an event, with the beginning before and the end after it."""
        choices = self._generation.choices
        first = "" if self._has_begun else self._chunks.first(choices)
        self._has_begun = True
        text = first + self._chunks.chunk(choices, *event)
        if self._generation.ended:
            self._has_ended = True
            text += self._chunks.last(choices) + self._framing.done
        return text

    def _record_client_wait(self) -> None:
        self._client_wait.end()
        if self._client_wait.seconds > 0:
            self._generation.choices[0].note_client_wait(self._client_wait.seconds)

    # Called by the generation and the event loop

    def _on_output(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._on_turn, context=self._context)

    def _on_turn(self) -> None:
        self._is_scheduled = False
        self._send_now()

    def _send_now(self) -> None:
        """Send what is there, unless the request's task is about to."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            if self._is_sending:
                self._client_wait.begin()
            return
        if not self._is_open:
            waiter.set_result(None)
            return
        text = self._next_text()
        if not text:
            return
        if self._has_ended or self._write is None or not self._write(text.encode()):
            self._text = text
            waiter.set_result(None)
            return
        self._silence.note_sent()
        if self._generation.has_events:
            self._on_output()

    def _on_silence(self) -> None:
        """Say that the stream lives, unless it has something to send that its client does not
        read."""
        waiter = self._waiter
        if self._text or waiter is None or waiter.done():
            return
        self._text = self._framing.keep_alive
        if self._is_open:
            self._send_now()
        else:
            waiter.set_result(None)
