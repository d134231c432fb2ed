"""The requests in flight of all frontends of this machine, in files that all of them map.

Each worker's place has a file with a cell for each frontend, and each frontend writes only its own
cells. So nobody waits for anybody, and what one has sent a worker the others see at once:

    frontends        for each row: when its frontend was last seen, and who that is
    workers/PLACE    for each of the place's last starts, for each row: requests in flight

A row belongs to a frontend for as long as that lives, by a lock that the kernel drops with the
process. It does not go by the frontend's place, because a rolling restart has two of them in one.
"""

import hashlib
import logging
import mmap
import os
import time
from collections.abc import Collection
from pathlib import Path

from headrace.protocol.common.file_lock import try_lock_byte

log = logging.getLogger(__name__)

# Frontends of one machine at most.
ROWS = 256
# A place's worker that starts again finds other cells: some frontend may not yet know of the loss
# of the one before. Until so many more have started, all do.
STARTS = 4
# Who has not been seen for so long is gone, or stopped: what it wrote counts no more. It is four
# heartbeats, so that one that only lacks CPU time is not forgotten.
FRESH_S = 1.0
_CELL_BYTES = 8


class SharedLoad:
    """One frontend's view of what all of them have in flight, and its own part of it.

    is_open: false when it has been closed, or could not go on.
    """

    def __init__(self, folder: Path, frontend_id: str) -> None:
        """OSError if nothing can be shared."""
        self._places = folder / "workers"
        self._places.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._id = frontend_id
        self._cells: dict[str, memoryview] = {}  # of each worker
        self._living: dict[str, memoryview] = {}  # those of them up to the last living frontend
        self._rows = 0  # up to the last living frontend
        self._stale: tuple[int, ...] = ()  # rows before it that count no more
        self._seen: frozenset[int] = frozenset()
        self._lock = os.open(folder / "frontends", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._row = _claim_row(self._lock)
            self._frontends = _map(self._lock, 2 * ROWS)
            self._clear_row()
        except OSError:
            os.close(self._lock)
            raise
        self.is_open = True
        self._frontends[ROWS + self._row] = _digest(frontend_id)
        self.refresh()

    def publish(self, worker_id: str, count: int) -> None:
        """Say how many requests this frontend has in flight at a worker."""
        cells = self._cells.get(worker_id) or self._open(worker_id)
        if cells:
            cells[self._row] = count

    def in_flight(self, worker_id: str) -> int:
        """How many requests all living frontends have in flight at a worker."""
        cells = self._living.get(worker_id)
        if cells is None:
            cells = self._open(worker_id)[: self._rows]
            self._living[worker_id] = cells
        if self._stale:
            return sum(cells) - sum(cells[row] for row in self._stale)
        return sum(cells)

    def sees(self, frontend_id: str) -> bool:
        """Whether `in_flight` counts what that frontend has."""
        return frontend_id == self._id or _digest(frontend_id) in self._seen

    def refresh(self) -> None:
        """Say that this frontend lives, and see who else does; to be called some times a second."""
        if not self.is_open:
            return
        self._frontends[self._row] = time.monotonic_ns()
        seen_at = self._frontends[:ROWS].tolist()
        now = time.monotonic_ns()
        oldest = now - int(FRESH_S * 1e9)
        # A time to come is from before the machine was started.
        living = [row for row, at in enumerate(seen_at) if oldest < at <= now]
        self._stale = tuple(set(range(living[-1] + 1)).difference(living))
        self._seen = frozenset(self._frontends[ROWS + row] for row in living)
        if self._rows != living[-1] + 1:
            self._rows = living[-1] + 1
            self._living.clear()

    def keep(self, worker_ids: Collection[str]) -> None:
        """Let go of the files of all other workers."""
        for gone in self._cells.keys() - set(worker_ids):
            del self._cells[gone]
            self._living.pop(gone, None)

    def close(self) -> None:
        """Nothing of this frontend counts any more, and it sees nobody. Harmless a second time."""
        if not self.is_open:
            return
        self.is_open = False
        self._frontends[self._row] = 0
        for cells in self._cells.values():
            cells[self._row] = 0
        self._cells, self._living = {}, {}
        self._stale, self._seen = (), frozenset()
        os.close(self._lock)

    def _open(self, worker_id: str) -> memoryview:
        """A worker's cells; none if they cannot be had."""
        if worker_id in self._cells:
            return self._cells[worker_id]
        if not self.is_open:
            return memoryview(b"")
        place, _, start = worker_id.rpartition(".")
        first = int(start) % STARTS * ROWS
        try:
            cells = _open_cells(self._places / place)[first : first + ROWS]
        except OSError as error:
            log.error("requests in flight are shared no more: %s", error)
            self.close()  # so that the others know that they do not see all
            return memoryview(b"")
        cells[self._row] = 0  # what is left of a start long ago
        self._cells[worker_id] = cells
        return cells

    def _clear_row(self) -> None:
        """Remove what a frontend that had the row before has left."""
        self._frontends[self._row] = 0
        for file in self._places.iterdir():
            cells = _open_cells(file)
            for start in range(STARTS):
                cells[start * ROWS + self._row] = 0


def open_shared_load(folder: Path, frontend_id: str) -> SharedLoad | None:
    """None if nothing can be shared (no space, say): heartbeats tell of others' requests, too."""
    try:
        return SharedLoad(folder, frontend_id)
    except OSError as error:
        log.error("requests in flight are not shared with other frontends: %s", error)
        return None


def _claim_row(descriptor: int) -> int:
    """The first row that nobody has; its lock belongs to the open file."""
    for row in range(ROWS):
        if try_lock_byte(descriptor, row):
            return row
    raise OSError(f"{ROWS} frontends share already")


def _open_cells(file: Path) -> memoryview:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return _map(descriptor, STARTS * ROWS)
    finally:
        os.close(descriptor)


def _map(descriptor: int, cells: int) -> memoryview:
    """Cells of eight bytes, each of which is read and written as a whole."""
    # Without blocks of its own, a write to it could find a full disk, which kills the process.
    os.posix_fallocate(descriptor, 0, cells * _CELL_BYTES)
    return memoryview(mmap.mmap(descriptor, cells * _CELL_BYTES)).cast("q")


def _digest(frontend_id: str) -> int:
    digest = hashlib.blake2b(frontend_id.encode(), digest_size=_CELL_BYTES).digest()
    return int.from_bytes(digest, "little", signed=True)
