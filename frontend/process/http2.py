"""HTTP/2 as Hypercorn and h2 speak it, with bounds on what a client can make it do.

h2 bounds the size of headers, the frames that continue them and the streams at once. It does not
bound how often a client resets streams or sends frames that only cost time, and Hypercorn waits for
a client without end that gives a stream no window.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import (
    BUFFER_HIGH_WATER,
    BufferCompleteError,
    H2Protocol,
    StreamBuffer,
)
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import filter_pseudo_headers
from priority.priority import MissingStreamError

from headrace.frontend.middleware.asgi import CONTINUE_KEY, LEAVE_KEY
from headrace.frontend.process.patience import Patience

# Frames that only cost time (resets, pings, settings, empty data) which a client may send at once,
# and each second.
FREE_FRAMES, FRAMES_PER_S = 1000, 100

# A stream, or its connection, has ended meanwhile.
_GONE = (
    KeyError,
    BufferCompleteError,
    MissingStreamError,
    h2.exceptions.ProtocolError,
)
_COSTLY = (
    h2.events.StreamReset,
    h2.events.PingReceived,
    h2.events.RemoteSettingsChanged,
    h2.events.PriorityUpdated,
    h2.events.UnknownFrameReceived,
)


class _FrameBudget:
    def __init__(self) -> None:
        self._left, self._seen_at = float(FREE_FRAMES), time.monotonic()

    def spend(self, frames: int) -> bool:
        """Count frames; return whether they were within the bounds."""
        now = time.monotonic()
        gained = (now - self._seen_at) * FRAMES_PER_S
        self._left = min(FREE_FRAMES, self._left + gained) - frames
        self._seen_at = now
        return self._left >= 0


class _PatientBuffer(StreamBuffer):
    """A stream's unsent bytes. on_stall: called when its client does not read them."""

    def __init__(
        self, event_class: Any, patience: Patience, on_stall: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(event_class)
        self._patience, self._on_stall = patience, on_stall

    async def push(self, data: bytes) -> None:
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        if len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._wait(self._paused.wait)
            await self._paused.clear()

    async def drain(self) -> None:
        await self._wait(self._is_empty.wait)

    async def _wait(self, wait: Callable[[], Awaitable[object]]) -> None:
        if not await self._patience.wait(wait, lambda: len(self.buffer)):
            await self._on_stall()
            raise BufferCompleteError


class HTTP2Protocol(H2Protocol):
    """One connection of HTTP/2."""

    patience = Patience(60.0, 0)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        settings = h2.settings.SettingCodes
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                settings.MAX_CONCURRENT_STREAMS: self.config.h2_max_concurrent_streams,
                settings.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )
        self.connection.decoder.max_header_list_size = self.config.h2_max_header_list_size
        self._budget = _FrameBudget()
        self._leaves = False
        self._unfinished: set[int] = set()  # streams whose clients may send more

    async def handle(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        try:
            events = self.connection.receive_data(event.data)
        except h2.exceptions.ProtocolError:
            await self._flush()
            await self.send(Closed())
            return
        costly = sum(isinstance(each, _COSTLY) or _is_empty(each) for each in events)
        if costly and not self._budget.spend(costly):
            self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            await self._flush()
            await self.send(Closed())
            return
        await self._handle_events(events)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                await self._begin(event)
            elif isinstance(event, h2.events.DataReceived):
                await self._receive(event)
            elif isinstance(event, h2.events.StreamEnded):
                self._unfinished.discard(event.stream_id)
                if (stream := self.streams.get(event.stream_id)) is not None:
                    await stream.handle(EndBody(stream_id=event.stream_id))
            elif isinstance(event, h2.events.StreamReset):
                await self._drop(event.stream_id)
            elif isinstance(event, h2.events.WindowUpdated):
                await self._window_updated(event.stream_id)
            elif isinstance(event, h2.events.RemoteSettingsChanged):
                if h2.settings.SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    await self._window_updated(None)
            elif isinstance(event, h2.events.ConnectionTerminated):
                await self.send(Closed())
        await self._flush()

    async def _begin(self, event: h2.events.RequestReceived) -> None:
        if self.context.terminated.is_set():
            self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        headers = dict(event.headers or [])
        method, path = headers.get(b":method", b""), headers.get(b":path", b"")
        if method == b"CONNECT" or not (method.isascii() and path.isascii() and path):
            self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            return
        await self._create_stream(event)
        await self.send(Updated(idle=False))

    async def _receive(self, event: h2.events.DataReceived) -> None:
        stream_id, stream = event.stream_id, self.streams.get(event.stream_id)
        if stream is not None:
            await stream.handle(Body(stream_id=stream_id, data=event.data))
        # Of a request that has been answered already, it is dropped.
        self.connection.acknowledge_received_data(event.flow_controlled_length, stream_id)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        stream_id = request.stream_id
        headers = dict(request.headers)
        stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )

        async def on_stall() -> None:
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            await self._flush()
            await self._drop(stream_id)

        async def say_continue() -> None:
            if headers.get(b"expect", b"").lower() == b"100-continue":
                self.connection.send_headers(stream_id, [(b":status", b"100")])
                await self._flush()

        self.streams[stream_id] = stream
        self._unfinished.add(stream_id)
        self.stream_buffers[stream_id] = _PatientBuffer(
            self.context.event_class, self.patience, on_stall
        )
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        self.keep_alive_requests += 1
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(request.headers),
                http_version="2",
                method=headers[b":method"].decode("ascii").upper(),
                raw_path=headers[b":path"],
                state=ConnectionState(
                    {**self.connection_state, CONTINUE_KEY: say_continue, LEAVE_KEY: self.leave}
                ),
            )
        )

    async def _drop(self, stream_id: int) -> None:
        """End a stream that its client has reset or does not read, and forget its bytes."""
        self._unfinished.discard(stream_id)
        await self._close_stream(stream_id)
        if (buffer := self.stream_buffers.get(stream_id)) is not None:
            await buffer.close()
            await self._window_updated(stream_id)  # so that the sending task removes it

    # Answers

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, EndBody):
            with contextlib.suppress(*_GONE):
                await self._finish(event.stream_id)
        elif isinstance(event, StreamClosed):
            await self._close_stream(event.stream_id)
            await self.send(Updated(idle=not self.streams))
        else:
            await super().stream_send(event)

    async def _finish(self, stream_id: int) -> None:
        """End a stream when all of it has been sent."""
        buffer = self.stream_buffers[stream_id]
        buffer.set_complete()
        if buffer.buffer:
            self.priority.unblock(stream_id)
            await self.has_data.set()
            await buffer.drain()
        if stream_id in self.stream_buffers:
            await self._end(stream_id)

    async def _send_data(self, stream_id: int) -> None:
        """Send what there is of a stream, as far as its client allows."""
        buffer = self.stream_buffers.get(stream_id)
        try:
            if buffer is None:
                raise KeyError(stream_id)
            window = self.connection.local_flow_control_window(stream_id)
            size = max(0, min(window, self.connection.max_outbound_frame_size))
            if data := await buffer.pop(size):
                self.connection.send_data(stream_id, data)
                await self._flush()
            else:
                self.priority.block(stream_id)
            if buffer.complete and stream_id in self.stream_buffers:
                await self._end(stream_id)
        except _GONE:
            if buffer is not None:
                await buffer.close()
            self._forget(stream_id)

    async def _end(self, stream_id: int) -> None:
        self._forget(stream_id)
        self.connection.end_stream(stream_id)
        if stream_id in self._unfinished:
            # It was answered before all of it was read: tell the client to send no more.
            self._unfinished.discard(stream_id)
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
        await self._flush()
        if self._leaves and not self.stream_buffers:
            self.connection.close_connection()
            await self._flush()
            await self.send(Closed())

    def _forget(self, stream_id: int) -> None:
        self.stream_buffers.pop(stream_id, None)
        with contextlib.suppress(MissingStreamError):
            self.priority.remove_stream(stream_id)

    def leave(self) -> None:
        """Close the connection when nothing is in flight on it.

        Not before: Python's clients of HTTP/2 do not read on after a GOAWAY.
        """
        self._leaves = True

    async def _priority_updated(self, event: h2.events.PriorityUpdated) -> None:
        """Ignore the priorities of RFC 7540, which RFC 9113 has given up."""


def _is_empty(event: h2.events.Event) -> bool:
    """Return whether an event is of a frame of data without any, which ends nothing."""
    return (
        isinstance(event, h2.events.DataReceived) and not event.data and event.stream_ended is None
    )
