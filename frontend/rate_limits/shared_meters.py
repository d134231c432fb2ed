"""What each key uses, in files that the frontends of a machine map.

    frontends     a byte for each row, locked by its frontend while that lives
    locks         a byte for each key, by its digest
    keys/DIGEST   of one key: what is used a minute, then for each row its requests at once

What is used a minute belongs to no frontend, so that it outlives each of them. A key is locked for
some microseconds while its numbers are compared and changed. Requests at once are
counted by row: those of a row that nobody locks have ended with their frontend.
"""

import contextlib
import hashlib
import logging
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

from headrace.frontend.rate_limits.meter import Level
from headrace.protocol.common.file_lock import try_lock_byte, unlock_byte
from headrace.protocol.common.mapped_file import map_file, reserve_space

log = logging.getLogger("headrace.frontend.rate_limits")

ROWS = 256  # frontends on one machine, at most
# How long to wait for the lock of a key. Only a frontend that was stopped between two lines
# of this module holds it for longer; for a while then nobody waits for it.
LOCK_S, UNLOCKED_S = 0.1, 1.0
_REQUESTS, _TOKENS, _FIRST_ROW = 0, 2, 8
_CELLS = _FIRST_ROW + ROWS
_CELL_BYTES = 8
# Keys that are locked by the same byte wait for each other, which does no harm.
_LOCKS = 1 << 32


class KeyUse:
    """What one key uses. Its methods must be called within `locked`, but for `leave`."""

    def __init__(self, rows: "FrontendRows", file: Path | None, key_name: str) -> None:
        """Map the file; None: only this frontend counts. Raises OSError if that is impossible."""
        self._rows, self._unlocked_until = rows, 0.0
        self._byte = lock_byte_of(key_name)
        size = _CELLS * _CELL_BYTES
        memory = mmap.mmap(-1, size) if file is None else map_file(file, size)
        self._cells = memoryview(memory).cast("q")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other frontends from changing anything."""
        descriptor = self._rows.locks
        if descriptor is None or not self._lock(descriptor):
            yield
            return
        try:
            yield
        finally:
            unlock_byte(descriptor, self._byte)

    def _lock(self, descriptor: int) -> bool:
        started = time.monotonic()
        while not try_lock_byte(descriptor, self._byte):
            now = time.monotonic()
            if now < self._unlocked_until or now > started + LOCK_S:
                if now >= self._unlocked_until:
                    log.warning("a frontend keeps the limits of a key locked")
                    self._unlocked_until = now + UNLOCKED_S
                return False
            time.sleep(0.00005)
        return True

    def requests(self, limit: int) -> Level:
        """Return how many requests are used of a limit."""
        return self._level(_REQUESTS, limit)

    def tokens(self, limit: int) -> Level:
        """Return how many tokens are used of a limit."""
        return self._level(_TOKENS, limit)

    def set_requests(self, level: Level) -> None:
        """Note how many requests are used."""
        self._cells[_REQUESTS], self._cells[_REQUESTS + 1] = level.used, level.at_ns

    def set_tokens(self, level: Level) -> None:
        """Note how many tokens are used."""
        self._cells[_TOKENS], self._cells[_TOKENS + 1] = level.used, level.at_ns

    def _level(self, cell: int, limit: int) -> Level:
        used, at_ns = self._cells[cell : cell + 2]
        return Level(limit, used, at_ns).at(time.monotonic_ns())

    def at_once(self, limit: int) -> int:
        """Return how many requests run now; those of dead frontends are looked for at the limit."""
        counts = self._cells[_FIRST_ROW:]
        total = sum(counts)
        if total < limit:
            return total
        for row, count in enumerate(counts):
            if count and self._rows.is_dead(row):
                counts[row] = 0
        return sum(counts)

    def enter(self) -> None:
        """Count one more request that runs here."""
        self._cells[_FIRST_ROW + self._rows.own] += 1

    def leave(self) -> None:
        """Count one less. No other frontend writes this number."""
        self._cells[_FIRST_ROW + self._rows.own] -= 1


class FrontendRows:
    """The rows of the frontends that live. own: this frontend's.

    locks: an open file with a byte for each key; None if nothing is shared.
    """

    def __init__(self, folder: Path | None) -> None:
        """Claim a row. Raises OSError if that is impossible. folder: None if nothing is shared."""
        self.own = 0
        self.locks: int | None = None
        self._descriptor: int | None = None
        if folder is None:
            return
        descriptor = _open(folder / "frontends")
        try:
            self.own = _claim_row(descriptor)
            _clear_row(folder / "keys", self.own)
            self.locks = _open(folder / "locks")
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def is_dead(self, row: int) -> bool:
        """Return whether no frontend has a row any more."""
        if self._descriptor is None or row == self.own or not try_lock_byte(self._descriptor, row):
            return False
        unlock_byte(self._descriptor, row)
        return True


class SharedMeters:
    """What all keys use. folder: of the files; None: nothing is shared."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._rows: FrontendRows | None = None
        self._uses: dict[str, KeyUse] = {}

    def of(self, key_name: str) -> KeyUse:
        """Return what a key uses."""
        use = self._uses.get(key_name)
        if use is None:
            use = self._uses[key_name] = self._open(key_name)
        return use

    def _open(self, key_name: str) -> KeyUse:
        folder = self._folder
        if folder is not None:
            name = hashlib.blake2b(key_name.encode(), digest_size=16).hexdigest()
            try:
                keys = folder / "keys"
                keys.mkdir(mode=0o700, parents=True, exist_ok=True)
                if self._rows is None:
                    self._rows = FrontendRows(folder)
                return KeyUse(self._rows, keys / name, key_name)
            except OSError as error:
                log.error("each frontend counts limits of a key on its own: %s", error.strerror)
        return KeyUse(FrontendRows(None), None, key_name)


def lock_byte_of(key_name: str) -> int:
    """Return the byte of the file of locks that is a key's."""
    digest = hashlib.blake2b(key_name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % _LOCKS


def _claim_row(descriptor: int) -> int:
    """Lock and return the first free row; the lock belongs to the open file."""
    for row in range(ROWS):
        if try_lock_byte(descriptor, row):
            return row
    raise OSError(f"{ROWS} frontends already share")


def _clear_row(keys: Path, row: int) -> None:
    """Forget the requests of a frontend that had the row before."""
    for file in keys.iterdir():
        descriptor = _open(file)
        try:
            reserve_space(descriptor, _CELLS * _CELL_BYTES)
            os.pwrite(descriptor, bytes(_CELL_BYTES), (_FIRST_ROW + row) * _CELL_BYTES)
        finally:
            os.close(descriptor)


def _open(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
