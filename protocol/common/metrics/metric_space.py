"""Metrics on a full disk: they are lost to others, and their process lives on.

prometheus_client makes its files with holes, and a write to a hole that a full file system cannot
fill kills the process (SIGBUS). The files of `MetricFile` have all their blocks. While there is no
space for more, or no file can be made, a process keeps its numbers in its own memory, where no
scrape sees them, and moves them to its file when there is space again.
"""

import contextlib
import logging
import mmap
import os
import struct
import time
from typing import IO, Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from headrace.protocol.common.mapped_file import reserve_space

log = logging.getLogger("headrace.processes")

INITIAL_BYTES = 1 << 14
# How often to look for space again.
RETRY_S = 5.0
# The number of used bytes at the beginning of a file, which makes the entries valid.
_HEADER = struct.Struct("i4x")

_warned = False


def keep_metrics_on_full_disks() -> None:
    """Let all metrics that this process makes from now on be kept in files of this kind."""
    values.MmapedDict = MetricFile  # type: ignore[attr-defined]


class MetricFile(MmapedDict):
    """A process's file of metrics, or its memory while the file has no space."""

    # What the base class does not know to be absent: a file, while the numbers are in memory.
    _f: Any
    _m: Any

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if read_mode:
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
            return
        self._retry_at: float | None = None  # while the numbers are in memory
        try:
            reserve_file(filename, INITIAL_BYTES)
            super().__init__(filename)  # type: ignore[no-untyped-call]
        except OSError as error:
            self._start_in_memory(filename)
            self._leave_file(error)

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a number."""
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._return_to_file()
        super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the file; numbers in memory are lost."""
        if self._f is None and self._m is not None:
            self._m.close()
            self._m = None
        super().close()  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        """Append a number, after making room for it."""
        while self._used + entry_bytes(key) > self._capacity:
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        capacity = 2 * self._capacity
        if self._retry_at is None:
            try:
                reserve_space(self._f.fileno(), capacity)
                self._m = mmap.mmap(self._f.fileno(), capacity)
            except OSError as error:
                self._move_to_memory(capacity)
                self._leave_file(error)
        else:
            self._move_to_memory(capacity)
        self._capacity = capacity

    def _move_to_memory(self, capacity: int) -> None:
        memory = mmap.mmap(-1, capacity)
        memory[: self._used] = self._m[: self._used]
        self._m = memory

    def _start_in_memory(self, filename: str) -> None:
        self._fname, self._f = filename, None
        self._capacity, self._used, self._positions = INITIAL_BYTES, _HEADER.size, {}
        self._m = mmap.mmap(-1, INITIAL_BYTES)
        self._m[: _HEADER.size] = _HEADER.pack(self._used)

    def _leave_file(self, error: OSError) -> None:
        """Note that numbers are kept in memory. Warns once a process."""
        global _warned
        self._retry_at = time.monotonic() + RETRY_S
        if not _warned:
            _warned = True
            log.warning("metrics are incomplete until there is space: %s", error)

    def _return_to_file(self) -> None:
        """Move the numbers from memory to the file, if there is space now.

        The entries in the file, if any, are the first of those in memory.
        """
        self._retry_at = time.monotonic() + RETRY_S
        with contextlib.suppress(OSError):
            file: IO[bytes] = self._f or open(self._fname, "a+b")  # noqa: SIM115
            self._f = file
            reserve_space(file.fileno(), self._capacity)
            mapped = mmap.mmap(file.fileno(), self._capacity)
            mapped[_HEADER.size : self._used] = self._m[_HEADER.size : self._used]
            mapped[: _HEADER.size] = _HEADER.pack(self._used)
            self._m, self._retry_at = mapped, None


def entry_bytes(key: str) -> int:
    """Return the most bytes that a number takes in a file: length, padded key, value and time."""
    return 4 + len(key.encode()) + 8 + 16


def reserve_file(filename: str, size: int) -> None:
    """Make the first `size` bytes of a metric file, so that prometheus_client does not.

    Raises OSError if there is no space.
    """
    descriptor = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        reserve_space(descriptor, size)
    finally:
        os.close(descriptor)
