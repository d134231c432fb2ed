"""Hypercorn's connections, which end when their client ends them.

As Hypercorn makes them, a connection whose client has closed it between two requests stays, with
its descriptor, until it has been idle for `keep_alive_timeout`: what reads is over, but the task
that waits for the idle time is waited for. And what one connection fails of would end all others
while the server finishes what is in flight.
"""

import logging
from typing import Any

import hypercorn.asyncio.run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Event, Updated

log = logging.getLogger("frontend")


class Connection(TCPServer):
    """One that does not wait to be idle once nothing more can come."""

    _has_ended = False

    async def run(self) -> None:
        if self.writer.get_extra_info("socket") is None:
            return  # its client has gone before it was begun
        try:
            await super().run()
        except Exception:
            log.exception("a connection has failed")

    async def _read_data(self) -> None:
        await super()._read_data()
        self._has_ended = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if self._has_ended and isinstance(event, Updated):
            return  # a request that is just over would have it wait again
        await super().protocol_send(event)


def install() -> None:
    """Have Hypercorn make such connections, from now on and in this process."""
    module: Any = hypercorn.asyncio.run
    module.TCPServer = Connection
