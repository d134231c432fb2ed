"""Connections of Hypercorn that end when they should, and that streams may write to directly.

In Hypercorn, a connection that its client has closed between two requests stays open, with its
descriptor, until it has been idle for `keep_alive_timeout`: the reader has ended, but the idle task
is still awaited. An error of one connection would end all others while the server drains. Clients
that send headers or read answers slowly are waited for without end. And a response that is sent
before its request has been read gets lost, since closing a socket with unread bytes resets it.

A part of a body passes through five coroutines of Hypercorn and a state machine of h11, which take
longer than making it and sending it together.
"""

import asyncio
import contextlib
import fcntl
import logging
import sys
import termios
from ssl import SSLError
from typing import Any

import h11
import hypercorn.asyncio.run
import hypercorn.protocol
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.events import Closed, Event, RawData, Updated

from headrace.frontend.middleware.asgi import WRITE_BODY_KEY
from headrace.frontend.process.http1 import HTTP1Protocol
from headrace.frontend.process.http2 import HTTP2Protocol
from headrace.frontend.process.patience import Patience
from headrace.protocol.network.connection_options import ConnectionOptions

log = logging.getLogger("headrace.frontend")


# Bytes that may wait in a connection when more are written directly. Below what makes its transport
# ask writers to pause.
MAX_WAITING_BYTES = 32 * 1024

# How long a client may continue to send what is dropped, after it has been answered.
LINGER_S = 5.0
_POLL_S = 0.05


class Connection(TCPServer):
    """A connection that waits for its client only as long as its limits say."""

    limits = ConnectionOptions()
    _has_ended = False
    _lingers: asyncio.TimerHandle | None = None
    _headers_due_at: float | None = None

    async def run(self) -> None:
        if self.writer.get_extra_info("socket") is None:
            return  # its client has gone before it started
        self.state = {**(self.state or {}), WRITE_BODY_KEY: self._write_body}
        try:
            await super().run()
        except asyncio.CancelledError:
            # The process ends. In Python 3.11 asyncio's streams ask for a task's error even if it
            # was cancelled, and the log would have a traceback.
            return
        except Exception:
            log.exception("a connection failed")
        finally:
            if self._lingers is not None:
                self._lingers.cancel()

    # Writing

    def _write_body(self, data: bytes) -> bool:
        """Write a part of a response whose length is not declared, as h11 would frame it.

        Returns False for other protocols than HTTP/1, and while the client is slow. See
        WRITE_BODY_KEY.
        """
        protocol = self.protocol.protocol
        transport = self.writer.transport
        if (
            not isinstance(protocol, HTTP1Protocol)
            or protocol.connection.our_state is not h11.SEND_BODY
            or transport.is_closing()
            or transport.get_write_buffer_size() > MAX_WAITING_BYTES
        ):
            return False
        if protocol.connection.their_http_version != b"1.0":  # it knows chunks
            data = b"%x\r\n%b\r\n" % (len(data), data)
        transport.write(data)
        return True

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            async with self.send_lock:
                try:
                    self.writer.write(event.data)
                    await self._drain()
                except (ConnectionError, RuntimeError):
                    await self.protocol.handle(Closed())
            return
        if self._has_ended and isinstance(event, Updated):
            return  # a request that has just ended would make it wait again
        await super().protocol_send(event)

    async def _drain(self) -> None:
        """Wait until there is room for more. Raises ConnectionError if the client does not read."""
        transport = self.writer.transport
        if transport.get_write_buffer_size() <= MAX_WAITING_BYTES:
            await self.writer.drain()
            return
        patience = Patience(self.limits.write_timeout_s, self.limits.min_body_rate)
        if not await patience.wait(self.writer.drain, self._unread):
            transport.abort()
            raise ConnectionAbortedError

    # Reading

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                async with asyncio.timeout_at(self._headers_due_at):
                    data = await self.reader.read(MAX_RECV)
            except TimeoutError:
                self._headers_due_at = None
                await self._reject(408)
                break
            except (OSError, SSLError):
                break
            if self._lingers is None:
                await self.protocol.handle(RawData(data))
                self._note_headers()
        self._has_ended = True
        await self.protocol.handle(Closed())
        await self.idle_task.stop()

    def _note_headers(self) -> None:
        """Set or clear the time by which the headers of a request must have arrived."""
        protocol = self.protocol.protocol
        if not isinstance(protocol, HTTP1Protocol) or not protocol.has_partial_headers:
            self._headers_due_at = None
        elif self._headers_due_at is None:
            self._headers_due_at = self.loop.time() + self.limits.header_timeout_s

    async def _reject(self, status: int) -> None:
        if isinstance(self.protocol.protocol, HTTP1Protocol):
            await self.protocol.protocol.reject(status)

    # Closing

    async def _initiate_server_close(self) -> None:
        await self.protocol.handle(Closed())
        await self._flush()
        self.writer.close()

    async def _close(self) -> None:
        """Close; if the client still sends, drop that for a while first."""
        wrapper = getattr(self, "protocol", None)  # none if the client went at once
        protocol = None if wrapper is None else wrapper.protocol
        expects_more = isinstance(protocol, HTTP1Protocol) and protocol.expects_more
        if expects_more and not self._has_ended:
            self._linger()
            return
        await self._flush()
        with contextlib.suppress(OSError):  # its client has gone
            await super()._close()

    def _linger(self) -> None:
        if self._lingers is not None:
            return
        self._lingers = self.loop.call_later(LINGER_S, self.writer.transport.abort)
        if self.writer.can_write_eof():  # not with TLS
            try:
                self.writer.write_eof()
            except (OSError, RuntimeError):
                self.writer.transport.abort()

    async def _flush(self) -> None:
        """Wait until the client has read what was written, or is too slow."""
        transport = self.writer.transport
        if transport.is_closing() or not transport.get_write_buffer_size():
            return

        async def sent() -> None:
            # Transports tell nobody when they have sent all.
            while not transport.is_closing() and transport.get_write_buffer_size():  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)

        patience = Patience(self.limits.write_timeout_s, self.limits.min_body_rate)
        if not await patience.wait(sent, self._unread):
            transport.abort()

    def _unread(self) -> int:
        """Return how many bytes have not reached the client's machine."""
        queued = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # it is closed
            fcntl.ioctl(self.writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        size: int = self.writer.transport.get_write_buffer_size()
        return size + int.from_bytes(queued, sys.byteorder)


def install(limits: ConnectionOptions) -> None:
    """Make Hypercorn use these connections and protocols in this process."""
    Connection.limits = limits
    HTTP2Protocol.patience = Patience(limits.write_timeout_s, limits.min_body_rate)
    module: Any = hypercorn.asyncio.run
    module.TCPServer = Connection
    protocols: Any = hypercorn.protocol
    protocols.H11Protocol, protocols.H2Protocol = HTTP1Protocol, HTTP2Protocol
