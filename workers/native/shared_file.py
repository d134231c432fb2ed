"""A file in memory in which the workers of a group on one host share their packed weights.

The launcher makes it and keeps it open; it has no name, so that nothing is left when the launcher
and its workers have ended, in whatever way. Whoever comes to an empty file fills it, whoever comes
to a full one maps it, and the last one that leaves empties it.

Two locks order this. They belong to an open file, so that they end with their process, and a killed
one leaves none behind:

- who comes holds FILLING until it has mapped the file, so that one fills and the others wait;
- who has mapped the file holds USING, shared; who fills or empties it holds USING alone.

The header is written last: a file whose filler was killed is as good as empty. The kernel takes a
killed process's mappings away before its locks, so that nobody is left without the pages it reads.
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
    make_pages,
    make_read_only,
    map_file,
    unmap,
    whole_pages,
)

HEADER_BYTES = 4096
_MAGIC = b"headrace packed weights\n"


@dataclass(eq=False)
class SharedMapping:
    """Shared memory, for as long as this object is; read only.

    address: of what the filler has written. was_full: whether that was another.
    """

    address: int
    was_full: bool


class SharedFile:
    """The file at a path of the launcher's; it may be gone, or no longer be the one of that name.

    name: what it was made as, see headrace.protocol.common.shared_weights.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def map(self, num_bytes: int, key: str, fill: Callable[[int], None]) -> SharedMapping | str:
        """The file's so many bytes that belong to a key, or why there are none to be shared.

        fill: called with the address to write them to if they are not there.

        Waits for another process that fills the file. Raises what `fill` raises; the file is empty
        then.
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
        """An open file of its own, which has locks of its own. OSError if it is another's."""
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        if os.readlink(f"/proc/self/fd/{fd}").startswith(f"/memfd:{self._name} "):
            return fd
        os.close(fd)
        raise OSError(errno.ESTALE, "is no longer the group's file")


def _map(
    fd: int, num_bytes: int, header: bytes, fill: Callable[[int], None]
) -> SharedMapping | str:
    """Only while FILLING is held. USING is held afterwards, if only by the file's being open."""
    size = whole_pages(HEADER_BYTES + num_bytes)
    lock_byte(fd, USING, shared=True)  # waits for one that empties the file just now
    was_full = os.pread(fd, len(header), 0) == header
    if was_full:
        address = map_file(fd, size, writable=False)
    elif try_lock_byte(fd, USING):
        address = _fill(fd, size, header, fill)
        lock_byte(fd, USING, shared=True)
    else:
        return "others use it with other weights"
    mapping = SharedMapping(address + HEADER_BYTES, was_full)
    leaving = weakref.finalize(mapping, _leave, fd, address, size)
    leaving.atexit = False  # a step may still run then
    return mapping


def _fill(fd: int, size: int, header: bytes, fill: Callable[[int], None]) -> int:
    """The address of what has been filled. Only while USING is held alone."""
    os.ftruncate(fd, 0)
    make_pages(fd, size)
    address = map_file(fd, size, writable=True)
    try:
        fill(address + HEADER_BYTES)
        make_read_only(address, size)
    except BaseException:
        unmap(address, size)
        raise
    os.pwrite(fd, header, 0)
    return address


def _leave(fd: int, address: int, size: int) -> None:
    """Waits for nothing: it is called wherever an object happens to end, perhaps amid `map`."""
    unmap(address, size)
    try:
        empty_unless_used(fd)
    finally:
        os.close(fd)


def _header(num_bytes: int, key: str) -> bytes:
    return _MAGIC + hashlib.sha256(f"{num_bytes} {key}".encode()).digest()
