"""Locks on files, of all the kinds that the processes of a pool use.

The kernel drops each of them with the process, however it ends. They differ in their owner:

- FileLock: a whole file, locked by an open file (flock(2)).
- lock_byte and try_lock_byte: one byte of a file, locked by an open file (F_OFD_SETLK of fcntl(2)).
- try_lock_for_process: a whole file, locked by a process (F_SETLK of fcntl(2)). Its children do not
  inherit the lock, a program that it becomes (exec) does, and others can ask for the holder's pid.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux


class LockHeld(BlockingIOError):
    """Another holds a lock that excludes this one."""


class FileLock:
    """A lock on a file that is made if it does not exist, held until `release`.

    An object that is dropped without `release` leaves the lock in place for as long as the process
    lives. Child processes do not inherit it.
    """

    def __init__(self, file: Path, *, shared: bool = False, blocking: bool = True) -> None:
        """Acquire the lock.

        Raises LockHeld if another holds it and `blocking` is false, OSError if the file cannot be
        opened.
        """
        self._fd = _open_locked(file, shared, blocking)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _open_locked(file: Path, shared: bool, blocking: bool) -> int:
    """Return a descriptor of the locked file."""
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not blocking:
        operation |= fcntl.LOCK_NB
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, operation)
            if _is_file_at(fd, file):
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise LockHeld(error.errno, error.strerror) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the last holder has removed it meanwhile: the next one gets another file


def _is_file_at(fd: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), file.stat())
    except FileNotFoundError:
        return False


def lock_byte(fd: int, offset: int, *, shared: bool = False) -> None:
    """Lock one byte of an open file; wait for other holders."""
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))


def try_lock_byte(fd: int, offset: int, *, shared: bool = False) -> bool:
    """Lock one byte of an open file; return whether no other holder excludes that."""
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES
        return False
    return True


def unlock_byte(fd: int, offset: int) -> None:
    """Unlock one byte of an open file; does nothing if it is not locked."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, offset, 1, 0))


@contextlib.contextmanager
def byte_locked(fd: int, offset: int) -> Iterator[None]:
    """Hold an exclusive lock on one byte of an open file."""
    lock_byte(fd, offset)
    try:
        yield
    finally:
        unlock_byte(fd, offset)


def try_lock_for_process(fd: int) -> bool:
    """Lock a file for this process; return whether no other process holds it.

    Closing any descriptor of the file unlocks it.
    """
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES
        return False
    return True


def locking_pid(fd: int) -> int:
    """Return the pid of the process that holds a file's lock; 0 if none does."""
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, query))
    return 0 if kind == fcntl.F_UNLCK else pid
