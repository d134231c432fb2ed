"""Standard output and error that neither block nor fail, wherever they lead.

A terminal that is held (Ctrl-S), a pipe that nobody reads, a full disk or a reader that has gone
must not stop a process that only wants to log. What cannot be written now is kept, up to a bound;
what is more is lost, and a later line says how much.
"""

import atexit
import contextlib
import fcntl
import io
import logging
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("headrace.processes")

# Of each process: a start's log a hundred times over.
MAX_KEPT_BYTES = 1 << 20
# A reader that reads nothing for so long does not read at all.
READER_WAIT_S = 0.2
_PIECE_BYTES = 4096  # what a pipe takes whole or not at all


def make_streams_safe() -> None:
    """Replace this process's standard output and error, unless they have been redirected already.

    Descriptors that are closed lead to /dev/null from now on: another file that gets their number
    would be written to by accident.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null(descriptor)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        current = getattr(sys, name)
        if current is None or _leads_to(current, descriptor):
            setattr(sys, name, SafeStream(descriptor))


class SafeStream(io.TextIOBase):
    """A text stream to a descriptor. Writing never raises and never waits."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._write = _writer(descriptor)
        self._kept = bytearray()
        self._lost_lines = 0
        self._ends_line = True  # what was written last
        self._is_stuck = False  # nobody reads
        self._is_torn = False  # the rest of the last line is lost
        self._lock = threading.RLock()  # a signal's handler may log within a write
        self._takes_turns = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        self._turn_wait_s = READER_WAIT_S
        atexit.register(self._write_last)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Write a text as far as possible, and keep the rest for the next call."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if not self._has_room(len(data)):
                self._lost_lines += data.count(b"\n")
                return len(text)
            self._kept += data
            is_written = self._drain()
        if is_written:
            self._tell_what_is_lost()
        return len(text)

    def flush(self) -> None:
        with self._lock:
            self._drain()

    def _has_room(self, count: int) -> bool:
        """Return whether bytes may be kept. Waits a moment for a reader that is slow, and not again
        for one that does not read at all."""
        self._drain()
        while len(self._kept) + count > MAX_KEPT_BYTES and not self._is_stuck:
            self._is_stuck = not self._wait(READER_WAIT_S)
            self._drain()
        return len(self._kept) + count <= MAX_KEPT_BYTES

    def _wait(self, timeout_s: float) -> bool:
        """Wait until something can be written; return false if that does not come."""
        try:
            return bool(select.select([], [self._descriptor], [], timeout_s)[1])
        except (OSError, ValueError):
            return False

    def _drain(self) -> bool:
        """Write what is kept; return whether all of it has been written."""
        if not self._kept:
            self._is_stuck = False
            return True
        with self._turn():
            return self._write_kept()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other processes from writing to the same pipe, which takes a long line in pieces.

        After a moment without a turn, go on all the same: lines may then be mixed. Where a process
        never gives its turn back, nobody waits a second time.
        """
        is_mine = self._takes_turns and self._take_turn()
        try:
            yield
        finally:
            if is_mine:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _take_turn(self) -> bool:
        until = time.monotonic() + self._turn_wait_s
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._turn_wait_s = READER_WAIT_S
                return True
            except (BlockingIOError, PermissionError):
                if self._is_stuck or time.monotonic() >= until:
                    self._turn_wait_s = 0
                    return False
                time.sleep(0.001)
            except OSError:
                self._takes_turns = False
                return False

    def _write_kept(self) -> bool:
        """Write what is kept, of a line that has begun also what the reader must first make room
        for; return whether all of it has been written."""
        while self._kept:
            if self._is_torn:
                self._kept[:0], self._is_torn = b"\n", False
            piece = bytes(self._kept[:_PIECE_BYTES])
            try:
                written = self._write(piece)
            except BlockingIOError:
                is_within_line = self._takes_turns and not self._ends_line
                if is_within_line and not self._is_stuck and self._wait(READER_WAIT_S):
                    continue
                self._is_stuck = self._is_stuck or is_within_line
                return False
            except (OSError, ValueError):  # a full disk, a reader that has gone
                self._lost_lines += self._kept.count(b"\n")
                self._kept.clear()
                self._is_torn = not self._ends_line
                return False
            self._ends_line = piece[:written].endswith(b"\n")
            del self._kept[:written]
        self._is_stuck = False
        return True

    def _tell_what_is_lost(self) -> None:
        """Log it, without the lock: another thread may log, and wait for this stream."""
        with self._lock:
            lost, self._lost_lines = self._lost_lines, 0
        if lost:
            log.warning("%d lines of this process's log were lost", lost)

    def _write_last(self) -> None:
        with self._lock:
            while not self._drain() and self._kept and self._wait(READER_WAIT_S):
                pass
        if not self._kept:
            self._tell_what_is_lost()


def _writer(descriptor: int) -> Callable[[bytes], int]:
    """Return a function like os.write for a descriptor, which raises BlockingIOError instead of
    waiting.

    The descriptor's own mode stays: other programs share it, such as a shell.
    """
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind):
        sender = socket.socket(fileno=os.dup(descriptor))
        return lambda data: sender.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # it is another user's
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
            return lambda data: os.write(own, data)
        return lambda data: _write_if_ready(descriptor, data)
    return lambda data: os.write(descriptor, data)


def _write_if_ready(descriptor: int, data: bytes) -> int:
    """Write to a pipe that seems to have room; another process may take that first."""
    if not select.select([], [descriptor], [], 0)[1]:
        raise BlockingIOError
    return os.write(descriptor, data)


def _leads_to(stream: object, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor  # type: ignore[attr-defined,no-any-return]
    except (AttributeError, OSError, ValueError):
        return False


def _open_null(descriptor: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    os.set_inheritable(descriptor, True)
