"""Fixes of Hypercorn's connections: they end when their clients close them.

In Hypercorn, a connection that its client has closed between two requests stays open, with its
descriptor, until it has been idle for `keep_alive_timeout`: the reader has ended, but the idle task
is still awaited. And an error of one connection would end all others while the server drains.
"""

import asyncio
import logging
from typing import Any

import hypercorn.asyncio.run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Event, Updated

log = logging.getLogger("headrace.frontend")


class Connection(TCPServer):
    """A connection that does not wait for its idle timeout after the client has closed it."""

    _has_ended = False

    async def run(self) -> None:
        if self.writer.get_extra_info("socket") is None:
            return  # its client has gone before it started
        try:
            await super().run()
        except asyncio.CancelledError:
            # The process ends. In Python 3.11 asyncio's streams ask for a task's error even if it
            # was cancelled, and the log would have a traceback.
            return
        except Exception:
            log.exception("a connection failed")

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
