"""Files that processes map into memory, all of whose blocks exist.

Writing through a map to a block that a full file system cannot provide kills the process (SIGBUS).
So the blocks are allocated when the file is made or grows, where a full file system is an error
that can be handled.
"""

import errno
import mmap
import os
from pathlib import Path

# What file systems that cannot allocate blocks ahead say, through one C library or another.
_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV})
_ZEROS = bytes(1 << 16)


def reserve_space(descriptor: int, size: int) -> None:
    """Give a file at least `size` bytes, all in blocks that exist; new bytes are zero.

    descriptor: open for writing. Content that is there already stays. The file is never shortened,
    after a failure neither: another process may have mapped it meanwhile.

    Raises OSError if there is no space.
    """
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _CANNOT_ALLOCATE:
            raise
        _append_zeros(descriptor, size)


def map_file(path: Path, size: int) -> mmap.mmap:
    """Map a file that several processes write, made with mode 0600 if it does not exist.

    Raises OSError if it cannot be opened, or if there is no space for it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        reserve_space(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _append_zeros(descriptor: int, size: int) -> None:
    start = os.fstat(descriptor).st_size
    while start < size:
        start += os.pwrite(descriptor, _ZEROS[: size - start], start)
