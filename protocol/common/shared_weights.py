"""What launcher and workers have to agree on about the files in which workers share weights: how
they are called, and the locks that order their use (see workers/native/shared_file.py).

The locks belong to an open file, not to a process, and end with it: a killed process leaves none.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

FILLING, USING = 0, 1  # the bytes of a file that are locked
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux


def memory_file_name(group: str) -> str:
    """The name of a group's memory file, as memfd_create takes it; no two groups have the same."""
    return f"headrace-weights-{group}"


def lock(fd: int, place: int, kind: int) -> None:
    """Have a lock of this kind (fcntl.F_RDLCK, F_WRLCK or F_UNLCK); waits for others' to end."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0))


def try_lock(fd: int, place: int, kind: int) -> bool:
    """Whether it is held now: nobody else has one against it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES
        return False
    return True


@contextlib.contextmanager
def held(fd: int, place: int) -> Iterator[None]:
    """Hold a lock that nobody else has meanwhile."""
    lock(fd, place, fcntl.F_WRLCK)
    try:
        yield
    finally:
        lock(fd, place, fcntl.F_UNLCK)


def empty_unless_used(fd: int) -> None:
    """Give a file's memory back if nobody else uses it; whoever calls this no longer does. Waits
    for nothing.

    Of several that leave at once, one finds the others gone: each lets go before it tries.
    """
    lock(fd, USING, fcntl.F_UNLCK)
    if try_lock(fd, USING, fcntl.F_WRLCK):
        os.ftruncate(fd, 0)
        lock(fd, USING, fcntl.F_UNLCK)
