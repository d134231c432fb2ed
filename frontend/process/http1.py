"""HTTP/1 as Hypercorn and h11 speak it, but strict.

What two servers in a row could read differently is an error (RFC 9112): a client could smuggle a
request past a proxy with it. Errors are answered in JSON, as all others are, and close the
connection. A body is asked for when it is wanted, not as soon as its client offers it.
"""

from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from h11._state import MIGHT_SWITCH_PROTOCOL
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState

from headrace.frontend.middleware.asgi import CONTINUE_KEY
from headrace.frontend.process.refusals import refusal

# Bytes of further requests that are read while one is being answered.
MAX_PIPELINED_BYTES = 64 * 1024
# Chunks that a body may have, and one more for so many of its bytes: each takes time.
FREE_CHUNKS, BYTES_PER_CHUNK = 4096, 32

# Of the beginning of a request that is not valid: an error's shape depends on its target.
KEPT_BYTES = 1024

_HAS_SENT_ALL = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, MIGHT_SWITCH_PROTOCOL)


class StrictBuffer(ReceiveBuffer):
    """h11's buffer, for which lines end in CR LF only, and are not continued by a next one."""

    def __init__(self) -> None:
        super().__init__()
        self._head: bytearray | None = None
        self.begins_with = b""  # what was read last: a head, or as much of it as is there

    def maybe_extract_lines(self) -> list[bytearray] | None:
        self.begins_with = bytes(self._data[:KEPT_BYTES])
        self._head = bytearray()
        lines = super().maybe_extract_lines()
        head, self._head = self._head, None
        if lines is None:
            return None
        if head.count(b"\n") != head.count(b"\r\n") or head.count(b"\r") != head.count(b"\r\n"):
            raise h11.RemoteProtocolError("a line does not end in CR LF")
        if any(line.startswith((b" ", b"\t")) for line in lines):
            raise h11.RemoteProtocolError("a header is continued on another line")
        return lines

    def _extract(self, count: int) -> bytearray:
        extracted = super()._extract(count)
        if self._head is not None:
            self._head = extracted
        return extracted


class HTTP1Protocol(H11Protocol):
    """One connection of HTTP/1."""

    connection: h11.Connection

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._buffer = StrictBuffer()
        self.connection._receive_buffer = self._buffer
        self._chunks = self._body_bytes = 0
        self._is_handling = self._is_closed = False
        self._request_target: bytes | None = None  # of the request that is being answered

    @property
    def has_partial_headers(self) -> bool:
        """Whether a request has begun whose headers are not complete."""
        return self.connection.their_state is h11.IDLE and len(self._buffer) > 0

    @property
    def expects_more(self) -> bool:
        """Whether its client may still be sending what nobody reads any more."""
        return self.connection.their_state in (h11.SEND_BODY, h11.ERROR)

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            self.connection.receive_data(event.data)
            await self._handle_events()
            while (
                len(self._buffer) > MAX_PIPELINED_BYTES
                and self.connection.their_state is h11.DONE
                and not self._is_closed
            ):
                await self.can_read.clear()
                await self.can_read.wait()
        elif isinstance(event, Closed):
            self._is_closed = True
            await self.can_read.set()
            await super().handle(event)

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and self.connection.their_state not in _HAS_SENT_ALL:
            headers = [header for header in event.headers if header[0] != b"connection"]
            headers.append((b"connection", b"close"))
            event = Response(event.stream_id, headers, event.status_code)
        await super().stream_send(event)

    async def reject(self, status: int) -> None:
        """Answer with an error, if no answer has begun, and close."""
        if self.connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send_error_response(status)
        await self._close_stream()
        await self.send(Closed())

    async def send_continue(self) -> None:
        """Tell a client that waits for it to send its body."""
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    # Requests

    async def _handle_events(self) -> None:
        """Handle what has been received, unless another task does so."""
        if self._is_handling:
            return
        self._is_handling = True
        try:
            while await self._handle_next():
                pass
        finally:
            self._is_handling = False

    async def _handle_next(self) -> bool:
        """Handle the next part of a request; return whether there may be another one."""
        try:
            event = self.connection.next_event()
            self._check(event)
        except h11.RemoteProtocolError as error:
            await self.reject(error.error_status_hint)
            return False
        if isinstance(event, h11.Request):
            await self.send(Updated(idle=False))
            await self._create_stream(event)
        elif event is h11.PAUSED or event is h11.NEED_DATA or self.stream is None:
            return False
        elif isinstance(event, h11.Data):
            await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
        elif isinstance(event, h11.EndOfMessage):
            await self.stream.handle(EndBody(stream_id=STREAM_ID))
        else:
            return False
        return True

    def _check(self, event: object) -> None:
        """Raise RemoteProtocolError for what h11 lets pass."""
        if isinstance(event, h11.Request):
            self._chunks = self._body_bytes = 0
            self._check_request(event)
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._body_bytes += len(event.data)
            if self._chunks > FREE_CHUNKS + self._body_bytes // BYTES_PER_CHUNK:
                raise h11.RemoteProtocolError("too many small chunks")

    def _check_request(self, event: h11.Request) -> None:
        if event.http_version not in (b"1.0", b"1.1"):
            is_first = self.keep_alive_requests == 0
            if is_first and (event.method, event.target) == (b"PRI", b"*"):
                rest = self.connection.trailing_data[0]
                raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + rest)
            raise h11.RemoteProtocolError("unknown version", error_status_hint=505)
        names = {name for name, _ in event.headers}
        if b"transfer-encoding" in names and (
            b"content-length" in names or event.http_version == b"1.0"
        ):
            raise h11.RemoteProtocolError("the length of the body is ambiguous")

    async def _create_stream(self, request: h11.Request) -> None:
        """Begin a request. Upgrades, to WebSockets or HTTP/2, are not offered: it may go on
        without."""
        self._request_target = request.target
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        state = ConnectionState({**self.connection_state, CONTINUE_KEY: self.send_continue})
        self.keep_alive_requests += 1
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=state,
            )
        )

    # Answers

    def _target(self) -> bytes:
        """Return what the request is for, as far as it can be read."""
        if self._request_target is not None:
            return self._request_target
        words = self._buffer.begins_with.partition(b"\n")[0].split(b" ")
        return words[1].strip() if len(words) > 1 else b""

    async def _send_error_response(self, status_code: int) -> None:
        body, more_headers = refusal(status_code, self._target())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *more_headers,
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _maybe_recycle(self) -> None:
        """Begin with the next request if there may be one, else close the connection."""
        await self._close_stream()
        states = self.connection.our_state, self.connection.their_state
        if states != (h11.DONE, h11.DONE) or self.context.terminated.is_set():
            await self.can_read.set()
            # Not here, in the task of the request that has just ended: it is cancelled meanwhile,
            # and a client that reads slowly is waited for.
            self.task_group.spawn(self.send, Closed())
            return
        self.connection.start_next_cycle()
        self._request_target = None
        await self.send(Updated(idle=True))
        await self.can_read.set()
        if len(self._buffer):  # not in the task of the request either
            self.task_group.spawn(self._handle_events)
