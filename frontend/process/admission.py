"""Bounds on how many connections there are: of the pool, of this process, of an address.

Each frontend publishes how many connections of which address it has in a table that all map. It
adds up those of all before it takes another one, so that at most one too many is taken by each
frontend that accepts at the same moment.
"""

import collections
import contextlib
import hashlib
import ipaddress
import json
import logging
import mmap
import os
import resource
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from headrace.frontend.limited_log import LimitedLog
from headrace.protocol.network.connection_options import DEFAULT_PER_ADDRESS, ConnectionOptions

log = logging.getLogger("headrace.frontend")

# Descriptors of a frontend that are no connections: sockets of the pool, files, checkers.
RESERVED_DESCRIPTORS = 256

# An address is looked for in so many entries of a table, from a place that its hash tells.
_WINDOW = 32
_ENTRIES = 8192
_ENTRY = struct.Struct("<QQ")
_OWNER = struct.Struct("<QQ")  # its process, and nothing
_ENTRIES_OF_WINDOW = struct.Struct(f"<{2 * _WINDOW}Q")
_TABLE_BYTES = _OWNER.size + (_ENTRIES + _WINDOW) * _ENTRY.size

# Refused connections that are kept for a moment, so that their clients can read why.
_MAX_PARTING, _PARTING_S = 64, 0.5


class AddressCounts:
    """Connections by address, of all frontends. Tables are written by one process each.

    Raises OSError if there is no space for the tables.
    """

    def __init__(self, path: Path, index: int, total: int) -> None:
        size = total * _TABLE_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._base, self._total = index * _TABLE_BYTES, total
        self._counts: collections.Counter[int] = collections.Counter()
        # A predecessor that still has connections must not write there any more.
        self._map[self._base : self._base + _TABLE_BYTES] = bytes(_TABLE_BYTES)
        _OWNER.pack_into(self._map, self._base, os.getpid(), 0)

    def count(self, key: int) -> int:
        """Return how many connections an address has."""
        others = 0
        for base in range(0, self._total * _TABLE_BYTES, _TABLE_BYTES):
            if base != self._base:
                entries = self._window(base, key)
                others += sum(
                    entries[at + 1] for at in range(0, len(entries), 2) if entries[at] == key
                )
        return self._counts[key] + others

    def add(self, key: int, change: int) -> None:
        """Count a connection of an address, or one that has ended."""
        self._counts[key] += change
        count = self._counts[key]
        if not count:
            del self._counts[key]
        self._publish(key, count)

    def _publish(self, key: int, count: int) -> None:
        if _OWNER.unpack_from(self._map, self._base)[0] != os.getpid():
            return  # a successor has the table now
        entries = self._window(self._base, key)
        places = range(0, len(entries), 2)
        known = [at for at in places if entries[at] == key]
        free = [at for at in places if not entries[at + 1]]
        if place := (known or free)[:1]:
            offset = self._offset(self._base, key) + place[0] * 8
            _ENTRY.pack_into(self._map, offset, key, count)

    def _window(self, base: int, key: int) -> tuple[int, ...]:
        return _ENTRIES_OF_WINDOW.unpack_from(self._map, self._offset(base, key))

    def _offset(self, base: int, key: int) -> int:
        return base + _OWNER.size + (key % _ENTRIES) * _ENTRY.size


def key_of(address: str) -> int:
    """Return the key of an IPv4 address or an IPv6 network, which is a client's as a whole."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    packed = parsed.packed[:8]
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest()) or 1


class ConnectionGate:
    """Decides which connections are taken.

    counts: returns how many there are, of all frontends and of this one. addresses: None: their
    connections are not counted. tells_why: whether clients can read an answer without TLS.
    """

    def __init__(
        self,
        limits: ConnectionOptions,
        counts: Callable[[], tuple[int, int]],
        addresses: AddressCounts | None,
        frontends: int = 1,
        tells_why: bool = True,
    ) -> None:
        self._tells_why = tells_why
        self._most, self._counts, self._addresses = limits.max_connections, counts, addresses
        self._per_address = limits.max_connections_per_address
        self._log = LimitedLog(log)
        self._parting: collections.deque[tuple[float, socket.socket]] = collections.deque()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_here = descriptors - min(RESERVED_DESCRIPTORS, descriptors // 2)
        if self._most_here * frontends < self._most:
            log.warning(
                "%d connections at most, by the limit of %d descriptors a process (ulimit -n)",
                self._most_here * frontends,
                descriptors,
            )

    def admit(self, connection: socket.socket, peer: object) -> Callable[[], None] | None:
        """Return a function to call when the connection has ended; None if it is refused, which
        its client is told."""
        total, here = self._counts()
        if total >= self._most or here >= self._most_here:
            self._refuse(connection, "There are too many connections.")
            return None
        key = self._key(connection, peer)
        if key is None or self._addresses is None:
            return lambda: None
        most = DEFAULT_PER_ADDRESS if self._per_address is None else self._per_address
        if self._addresses.count(key) >= most:
            self._refuse(connection, "There are too many connections from this address.")
            return None
        addresses = self._addresses
        addresses.add(key, 1)
        return lambda: addresses.add(key, -1)

    def _key(self, connection: socket.socket, peer: object) -> int | None:
        """Return the key of a client's address; None if it is not limited."""
        if connection.family == socket.AF_UNIX or self._per_address == 0:
            return None
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if (
            self._per_address is None
            and ipaddress.ip_address(address.partition("%")[0]).is_loopback
        ):
            return None  # a proxy on this machine
        return key_of(address)

    # Refusing

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        self._log.warning(f"refused a connection: {reason[0].lower()}{reason[1:-1]}")
        if not self._tells_why:
            connection.close()
            return
        with contextlib.suppress(OSError):
            connection.setblocking(False)
            connection.send(_refusal(reason))
            connection.shutdown(socket.SHUT_WR)
        self._parting.append((time.monotonic(), connection))
        self.close_refused()

    def close_refused(self) -> None:
        """Close the refused connections whose clients have had time to read why."""
        latest = time.monotonic() - _PARTING_S
        while self._parting and (
            len(self._parting) > _MAX_PARTING or self._parting[0][0] <= latest
        ):
            _, connection = self._parting.popleft()
            with contextlib.suppress(OSError):
                connection.recv(65536)  # a socket with unread bytes would be reset
            connection.close()


def _refusal(reason: str) -> bytes:
    error = {"message": reason, "type": "Service Unavailable", "param": None, "code": 503}
    body = json.dumps({"error": error}, separators=(",", ":"))
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    )
    return (head + body).encode()
