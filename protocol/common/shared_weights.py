"""The files in which the workers of a group share packed weights: their names, and the bytes whose
locks order their use (see workers/native/shared_file.py).

The locks belong to an open file, not to a process, and end with it: a killed process leaves none.
"""

import os

from headrace.protocol.common.file_lock import try_lock_byte, unlock_byte

FILLING, USING = 0, 1  # the bytes of a file that are locked


def memory_file_name(group: str) -> str:
    """Return the name of a group's memory file, for memfd_create; no two groups have the same."""
    return f"headrace-weights-{group}"


def empty_unless_used(fd: int) -> None:
    """Give a file's memory back unless another process uses it; the caller must no longer use it.

    Does not block. Of several processes that stop using it at once, one finds the others gone:
    each unlocks the file before it tries.
    """
    unlock_byte(fd, USING)
    if try_lock_byte(fd, USING):
        os.ftruncate(fd, 0)
        unlock_byte(fd, USING)
