"""Share packed weights through a file in memory, among the workers of a group on one host.

The launcher creates the file and keeps it open. The file has no name in the file system, so nothing
is left when the launcher and its workers have ended, however they end. A worker that finds the file
empty fills it, a worker that finds it filled maps it, and the last worker to stop using it empties
it.

Two locks order this. They belong to an open file, so that they end with their process, even if that
is killed:

- a worker holds FILLING until it has mapped the file, so that one fills it and the others wait;
- a worker that has mapped the file holds USING, shared; to fill or empty it, exclusively.

The header is written last, so a file whose filler was killed counts as empty. The kernel removes a
killed process's mappings before its locks, so that no worker loses pages that it reads.
"""

import errno
import hashlib
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.protocol.common.file_lock import byte_locked, lock_byte, try_lock_byte
from headrace.protocol.common.shared_weights import FILLING, USING, empty_unless_used
from headrace.workers.native.huge_mapping import (
    allocate_pages,
    make_read_only,
    map_file,
    round_up_to_pages,
    unmap,
)

HEADER_BYTES = 4096
_MAGIC = b"headrace packed weights\n"


@dataclass(eq=False)
class SharedMapping:
    """A read-only mapping of the shared file, held as long as this object lives.

    address: of the shared bytes. was_filled: whether another worker had filled the file before.
    """

    address: int
    was_filled: bool


class SharedFile:
    """The file that the launcher has open at a path; it may be gone or replaced by another.

    name: the memory file's name, see headrace.protocol.common.shared_weights.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def map(self, num_bytes: int, key: str, fill: Callable[[int], None]) -> SharedMapping | str:
        """Map num_bytes that belong to a key; return the mapping, or why they cannot be shared.

        fill: writes the bytes to an address, if the file does not have them.

        Waits for another process that is filling the file. Raises what `fill` raises; the file is
        then empty.
        """
        try:
            fd = self._open()
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        mapping: SharedMapping | str = "interrupted"
        try:
            with byte_locked(fd, FILLING):
                try:
                    mapping = _map(fd, num_bytes, _header(num_bytes, key), fill)
                finally:
                    if isinstance(mapping, str):
                        empty_unless_used(fd)
        except OSError as error:
            mapping = f"no huge pages: {error.strerror}"
        finally:
            if isinstance(mapping, str):
                os.close(fd)
        return mapping

    def _open(self) -> int:
        """Open the file anew, for locks of its own. Raises OSError if it is another file now."""
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        if os.readlink(f"/proc/self/fd/{fd}").startswith(f"/memfd:{self._name} "):
            return fd
        os.close(fd)
        raise OSError(errno.ESTALE, "is no longer the group's file")


def _map(
    fd: int, num_bytes: int, header: bytes, fill: Callable[[int], None]
) -> SharedMapping | str:
    """Map the file and hold USING until the file is closed. The caller must hold FILLING."""
    size = round_up_to_pages(HEADER_BYTES + num_bytes)
    lock_byte(fd, USING, shared=True)  # waits for a worker that is emptying the file
    was_filled = os.pread(fd, len(header), 0) == header
    if was_filled:
        address = map_file(fd, size, writable=False)
    elif try_lock_byte(fd, USING):
        address = _fill(fd, size, header, fill)
        lock_byte(fd, USING, shared=True)
    else:
        return "other workers use it with other weights"
    mapping = SharedMapping(address + HEADER_BYTES, was_filled)
    finalizer = weakref.finalize(mapping, _release_mapping, fd, address, size)
    finalizer.atexit = False  # a step may still be running at exit
    return mapping


def _fill(fd: int, size: int, header: bytes, fill: Callable[[int], None]) -> int:
    """Fill the file and return its address. The caller must hold USING exclusively."""
    os.ftruncate(fd, 0)
    allocate_pages(fd, size)
    address = map_file(fd, size, writable=True)
    try:
        fill(address + HEADER_BYTES)
        make_read_only(address, size)
    except BaseException:
        unmap(address, size)
        raise
    os.pwrite(fd, header, 0)
    return address


def _release_mapping(fd: int, address: int, size: int) -> None:
    """Unmap the file and empty it if it is unused. Must not wait: it runs wherever an object is
    collected, perhaps during `map`."""
    unmap(address, size)
    try:
        empty_unless_used(fd)
    finally:
        os.close(fd)


def _header(num_bytes: int, key: str) -> bytes:
    return _MAGIC + hashlib.sha256(f"{num_bytes} {key}".encode()).digest()
