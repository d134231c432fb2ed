"""Accept connections on one socket shared by several processes, evenly.

All frontends inherit the same listening socket. By default the process that is awake accepts all
waiting connections, so that in a burst one frontend gets everything. Here each publishes how many
connections it holds in shared memory, and one that holds more than another leaves a new connection
to that one for a moment before it accepts it itself.
"""

import asyncio
import logging
import mmap
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from headrace.frontend.critical_task import spawn_critical
from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.process.admission import ConnectionGate
from headrace.frontend.process.tls import Certificate
from headrace.protocol.common.mapped_file import map_file

log = logging.getLogger("headrace.frontend")

# A frontend that does not accept within this time is busy: then this one does.
TURN_S = 0.02
# Delay after accepting has failed, usually for lack of resources.
RETRY_S = 0.1
_POLL_S = 0.001
# How long a client may take to confirm that a connection with TLS ends.
SHUTDOWN_TIMEOUT_S = 2.0
# Bytes of answers that the kernel keeps of a connection, besides those that are on their way.
UNSENT_BYTES = 128 * 1024
# A frontend whose slot is older than this is gone or stopped, and is ignored.
_FRESH_S = 0.5
_SLOT = struct.Struct("<qd")


class ConnectionCounts:
    """Connections per frontend, in a file that all map: (count, time of the last update)."""

    def __init__(self, path: Path, index: int, total: int) -> None:
        try:
            self._slots = map_file(path, total * _SLOT.size)
        except OSError as error:  # then it accepts what it can, and others leave it nothing
            log.warning("connections may be shared out unevenly: %s", error)
            self._slots = mmap.mmap(-1, total * _SLOT.size)
        self._index, self._total = index, total
        self._count = 0
        self._has_left = False
        self.refresh()

    @property
    def held(self) -> int:
        """Connections that this frontend has."""
        return self._count

    def totals(self) -> tuple[int, int]:
        """Return how many connections all living frontends have, and how many this one."""
        now, others = time.monotonic(), 0
        for index in range(self._total):
            count, seen_at = _SLOT.unpack_from(self._slots, index * _SLOT.size)
            if index != self._index and now - seen_at < _FRESH_S:
                others += count
        return others + self._count, self._count

    def release_slot(self) -> None:
        """Stop writing to the slot: the successor uses it now."""
        self._has_left = True

    def add(self, change: int) -> None:
        self._count += change
        self.refresh()

    def refresh(self) -> None:
        """Update the slot, which shows that this frontend lives."""
        if self._has_left:
            return
        slot = (self._count, time.monotonic())
        _SLOT.pack_into(self._slots, self._index * _SLOT.size, *slot)

    def is_our_turn(self) -> bool:
        """Return whether no living frontend holds fewer connections than this one."""
        now = time.monotonic()
        for index in range(self._total):
            count, seen_at = _SLOT.unpack_from(self._slots, index * _SLOT.size)
            if index != self._index and count < self._count and now - seen_at < _FRESH_S:
                return False
        return True


class SharedServer(asyncio.AbstractServer):
    """An asyncio server that accepts one connection at a time, when it is its turn.

    admission: None: every connection is taken. certificate: None: without TLS.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        counts: ConnectionCounts,
        admission: ConnectionGate | None = None,
        certificate: Certificate | None = None,
        handshake_timeout_s: float = 10.0,
    ) -> None:
        listener.setblocking(False)
        self._loop, self._listener = loop, listener
        self._make_protocol, self._counts = make_protocol, counts
        self._admission, self._certificate = admission, certificate
        self._handshake_timeout_s = handshake_timeout_s
        self._entering: set[asyncio.Task[None]] = set()
        self._log = LimitedLog(log)
        self._tasks = {spawn_critical(self._accept_all()), spawn_critical(self._live())}

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self._listener,)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    async def start_serving(self) -> None:
        """Do nothing: it serves from the start."""

    async def serve_forever(self) -> None:
        await asyncio.gather(*self._tasks)

    def is_serving(self) -> bool:
        return bool(self._tasks)

    def close(self) -> None:
        """Stop accepting; open connections stay. Idempotent."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        self._tasks = set()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)

    async def _accept_all(self) -> None:
        while True:
            await self._readable()
            await self._wait_for_turn()
            try:
                connection, peer = self._listener.accept()
                await self._take(connection, peer)
            except (BlockingIOError, ConnectionError):
                continue  # another frontend has taken it, or the client has gone
            except OSError as error:  # out of descriptors or of memory
                self._log.warning(f"cannot accept connections: {error.strerror}")
                await asyncio.sleep(RETRY_S)

    async def _take(self, connection: socket.socket, peer: object) -> None:
        forget = _nothing
        if self._admission is not None:
            admitted = self._admission.admit(connection, peer)
            if admitted is None:
                return
            forget = admitted
        place = _Place(self._counts, forget)
        # A task of its own: what has been accepted is served, even if this one ends just now.
        task = self._loop.create_task(self._serve(connection, place))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)
        if self._certificate is None:
            await asyncio.shield(task)
        # A client may take its time for the handshake: others must not wait for it.

    async def _serve(self, connection: socket.socket, place: "_Place") -> None:
        protocol: Any = self._make_protocol()
        connection_lost = protocol.connection_lost

        def leave(error: Exception | None) -> None:
            place.leave()
            connection_lost(error)

        protocol.connection_lost = leave
        try:
            _tune(connection)
            await self._loop.connect_accepted_socket(
                lambda: protocol, connection, **self._encryption()
            )
        except OSError:  # its client has gone, or has failed to agree on TLS
            place.leave()
            connection.close()

    def _encryption(self) -> dict[str, Any]:
        if self._certificate is None:
            return {}
        return {
            "ssl": self._certificate.context,
            "ssl_handshake_timeout": self._handshake_timeout_s,
            "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT_S,
        }

    async def _readable(self) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        descriptor = self._listener.fileno()
        self._loop.add_reader(descriptor, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(descriptor)

    async def _wait_for_turn(self) -> None:
        """Give a frontend with fewer connections a moment to accept."""
        give_up_at = time.monotonic() + TURN_S
        while time.monotonic() < give_up_at:
            if self._counts.is_our_turn():
                return
            await asyncio.sleep(_POLL_S)

    async def _live(self) -> None:
        while True:
            self._counts.refresh()
            if self._admission is not None:
                self._admission.close_refused()
            await asyncio.sleep(_FRESH_S / 5)


class _Place:
    """What a connection takes up, until it ends in any way."""

    def __init__(self, counts: ConnectionCounts, forget: Callable[[], None]) -> None:
        self._counts, self._forget = counts, forget
        self._has_left = False
        counts.add(1)

    def leave(self) -> None:
        if not self._has_left:
            self._has_left = True
            self._counts.add(-1)
            self._forget()


def _nothing() -> None:
    """Do nothing."""


def _tune(connection: socket.socket) -> None:
    """Set what suits small answers, and bound what the kernel keeps of those that nobody reads."""
    connection.setblocking(False)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class SharedLoop(uvloop.Loop):
    """An event loop whose servers accept in turns. Hypercorn creates servers through its event
    loop, so it needs no change."""

    counts: ConnectionCounts
    admission: ConnectionGate | None = None
    certificate: Certificate | None = None
    handshake_timeout_s = 10.0
    is_listening = False
    _servers: tuple[SharedServer, ...] = ()

    def hand_over(self) -> None:
        """Leave all new connections to other frontends, one of which is the successor."""
        self.counts.release_slot()
        for server in self._servers:
            server.close()

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *_: Any, sock: Any, **__: Any
    ) -> SharedServer:
        self.is_listening = True
        server = SharedServer(
            self,
            sock,
            protocol_factory,
            self.counts,
            self.admission,
            self.certificate,
            self.handshake_timeout_s,
        )
        self._servers = (*self._servers, server)
        return server
