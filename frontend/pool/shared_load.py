"""Requests in flight of all frontends of this machine, in files that all of them map.

Each replica slot has a file with a cell for each frontend, and each frontend writes only its own
cells. So there is no waiting, and all frontends see at once what one has sent to a worker:

    frontends        for each row: when its frontend was last seen, and its id's hash
    workers/SLOT     for each of the slot's last starts, for each row: requests in flight

A row belongs to a frontend while it lives, by a lock that the kernel drops with the process. It is
not the frontend's slot, because in a rolling restart two frontends share one slot.
"""

import hashlib
import logging
import mmap
import os
import time
from collections.abc import Collection
from pathlib import Path

from headrace.protocol.common.file_lock import try_lock_byte
from headrace.protocol.common.mapped_file import map_file, reserve_space

log = logging.getLogger("headrace.frontend")

# Maximum number of frontends on one machine.
ROWS = 256
# A restarted worker uses other cells: some frontend may not have noticed the end of the one before.
# After so many more starts all have.
STARTS = 4
# A frontend that has not been seen for so long is gone or stopped: its cells do not count. Four
# heartbeats, so that one that only lacks CPU time still counts.
FRESH_S = 1.0
_CELL_BYTES = 8


class SharedLoad:
    """One frontend's view of the requests in flight of all, and its own cells.

    is_open: false after it was closed, or has failed.
    """

    def __init__(self, folder: Path, frontend_id: str) -> None:
        """Create the folder of the files. Raises OSError if nothing can be shared."""
        self._folder = folder / "workers"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._id = frontend_id
        self._cells: dict[str, memoryview] = {}  # of each worker
        self._living: dict[str, memoryview] = {}  # their rows up to the last living frontend
        self._rows = 0  # up to the last living frontend
        self._stale: tuple[int, ...] = ()  # rows before it that do not count
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
        """Set how many requests this frontend has in flight at a worker."""
        cells = self._cells.get(worker_id) or self._open(worker_id)
        if cells:
            cells[self._row] = count

    def in_flight(self, worker_id: str) -> int:
        """Return how many requests all living frontends have in flight at a worker."""
        cells = self._living.get(worker_id)
        if cells is None:
            cells = self._open(worker_id)[: self._rows]
            self._living[worker_id] = cells
        if self._stale:
            return sum(cells) - sum(cells[row] for row in self._stale)
        return sum(cells)

    def of_frontend(self, frontend_id: str) -> int | None:
        """Return how many requests a frontend has in flight at all workers; None if it is not
        seen."""
        digest = _digest(frontend_id)
        for row in range(self._rows):
            if row not in self._stale and self._frontends[ROWS + row] == digest:
                return sum(cells[row] for cells in self._cells.values())
        return None

    def sees(self, frontend_id: str) -> bool:
        """Return whether `in_flight` counts a frontend's requests."""
        return frontend_id == self._id or _digest(frontend_id) in self._seen

    def refresh(self) -> None:
        """Show that this frontend lives, and see which others do; call it some times a second."""
        if not self.is_open:
            return
        self._frontends[self._row] = time.monotonic_ns()
        seen_at = self._frontends[:ROWS].tolist()
        # Read again: another may have stamped its row since. This frontend's own row counts however
        # long it was held up in between.
        seen_at[self._row] = now = time.monotonic_ns()
        oldest = now - int(FRESH_S * 1e9)
        # A future time is from before the machine was booted.
        living = [row for row, at in enumerate(seen_at) if oldest < at <= now]
        self._stale = tuple(set(range(living[-1] + 1)).difference(living))
        self._seen = frozenset(self._frontends[ROWS + row] for row in living)
        if self._rows != living[-1] + 1:
            self._rows = living[-1] + 1
            self._living.clear()

    def retain(self, worker_ids: Collection[str]) -> None:
        """Release the files of all other workers."""
        for gone in self._cells.keys() - set(worker_ids):
            del self._cells[gone]
            self._living.pop(gone, None)

    def close(self) -> None:
        """Stop sharing: this frontend does not count any more and sees no others. Idempotent."""
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
        """Return a worker's cells; none if they are not available."""
        if worker_id in self._cells:
            return self._cells[worker_id]
        if not self.is_open:
            return memoryview(b"")
        slot, _, start = worker_id.rpartition(".")
        first = int(start) % STARTS * ROWS
        try:
            cells = _open_cells(self._folder / slot)[first : first + ROWS]
        except OSError as error:
            log.error("no longer sharing requests in flight: %s", error)
            self.close()  # so that others know that this frontend is not visible
            return memoryview(b"")
        cells[self._row] = 0  # left over from a start long ago
        self._cells[worker_id] = cells
        return cells

    def _clear_row(self) -> None:
        """Clear the cells of a frontend that had the row before."""
        self._frontends[self._row] = 0
        for file in self._folder.iterdir():
            cells = _open_cells(file)
            for start in range(STARTS):
                cells[start * ROWS + self._row] = 0


def open_shared_load(folder: Path, frontend_id: str) -> SharedLoad | None:
    """Return the shared load; None if it is not available (no space, say). Heartbeats then tell
    about others' requests."""
    try:
        return SharedLoad(folder, frontend_id)
    except OSError as error:
        log.error("cannot share requests in flight with other frontends: %s", error)
        return None


def _claim_row(descriptor: int) -> int:
    """Lock and return the first free row; the lock belongs to the open file."""
    for row in range(ROWS):
        if try_lock_byte(descriptor, row):
            return row
    raise OSError(f"{ROWS} frontends already share")


def _open_cells(file: Path) -> memoryview:
    return memoryview(map_file(file, STARTS * ROWS * _CELL_BYTES)).cast("q")


def _map(descriptor: int, cells: int) -> memoryview:
    """Map a file as cells of eight bytes, each read and written atomically."""
    reserve_space(descriptor, cells * _CELL_BYTES)
    return memoryview(mmap.mmap(descriptor, cells * _CELL_BYTES)).cast("q")


def _digest(frontend_id: str) -> int:
    digest = hashlib.blake2b(frontend_id.encode(), digest_size=_CELL_BYTES).digest()
    return int.from_bytes(digest, "little", signed=True)
