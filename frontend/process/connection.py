"""Fixes of Hypercorn's connections: they end when their clients close them, and streams may write
to them directly.

In Hypercorn, a connection that its client has closed between two requests stays open, with its
descriptor, until it has been idle for `keep_alive_timeout`: the reader has ended, but the idle task
is still awaited. And an error of one connection would end all others while the server drains.

A part of a body passes through five coroutines of Hypercorn and a state machine of h11, which take
longer than making it and sending it together.
"""

import asyncio
import logging
from typing import Any

import h11
import hypercorn.asyncio.run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Event, Updated
from hypercorn.protocol.h11 import H11Protocol

from headrace.frontend.middleware.asgi import WRITE_BODY_KEY

log = logging.getLogger("headrace.frontend")


# Bytes that may wait in a connection when more are written directly. Below what makes its transport
# ask writers to pause.
MAX_WAITING_BYTES = 32 * 1024


class Connection(TCPServer):
    """A connection that does not wait for its idle timeout after the client has closed it."""

    _has_ended = False

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

    def _write_body(self, data: bytes) -> bool:
        """Write a part of a response whose length is not declared, as h11 would frame it.

        Returns False for other protocols than HTTP/1, and while the client is slow. See
        WRITE_BODY_KEY.
        """
        protocol = self.protocol.protocol
        transport = self.writer.transport
        if (
            not isinstance(protocol, H11Protocol)
            or not isinstance(protocol.connection, h11.Connection)
            or protocol.connection.our_state is not h11.SEND_BODY
            or transport.is_closing()
            or transport.get_write_buffer_size() > MAX_WAITING_BYTES
        ):
            return False
        if protocol.connection.their_http_version != b"1.0":  # it knows chunks
            data = b"%x\r\n%b\r\n" % (len(data), data)
        transport.write(data)
        return True

    async def _read_data(self) -> None:
        await super()._read_data()
        self._has_ended = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if self._has_ended and isinstance(event, Updated):
            return  # a request that has just ended would make it wait again
        await super().protocol_send(event)


def install() -> None:
    """Make Hypercorn use these connections in this process."""
    module: Any = hypercorn.asyncio.run
    module.TCPServer = Connection
