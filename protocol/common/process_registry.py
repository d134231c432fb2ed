"""Who runs, where no launcher knows it: one locked file for each place in the pool.

Whoever takes a place locks its file for as long as it lives, and writes the number of its start
and its pid there. The kernel drops the lock with the process, however it ends, and names its
holder, so that a restarted coordinator sees the truth at once and kills nobody else.

The locks are those of fcntl(2): they belong to a process, not to a descriptor, so that children
do not keep their parent's place, and a program that the process becomes (exec) does.
"""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from headrace.protocol.common.file_lock import locking_pid, try_lock_for_process

COORDINATOR, FRONTEND, WORKER = "coordinator", "frontend", "worker"

_RECORD_BYTES = 64


class PlaceTaken(Exception):
    """Another process is in that place."""


@dataclass(frozen=True)
class Member:
    process_id: str
    role: str
    pid: int


class Roll:
    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "roll"

    def enter(self, role: str, place: str) -> tuple[str, Member | None]:
        """Take a place for the rest of this process's life.

        Returns the id, new with each start, and who had the place before.
        """
        folder = self._folder / role
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never closed, and inheritable: what the process becomes keeps the place.
        descriptor = os.open(folder / place, os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(descriptor, True)
        if not try_lock_for_process(descriptor):
            os.close(descriptor)
            raise PlaceTaken(place)
        last, pid = _read(descriptor)
        before = None if last < 0 else Member(f"{place}.{last}", role, pid)
        os.pwrite(descriptor, f"{last + 1} {os.getpid()}".ljust(_RECORD_BYTES).encode(), 0)
        return f"{place}.{last + 1}", before

    def members(self, role: str) -> list[Member]:
        """Those who run now."""
        found = (self._member(role, file) for file in self._files(role))
        return [member for member, runs in found if runs]

    def newest_ids(self, role: str) -> tuple[str, ...]:
        """The newest id of each place that has ever been taken."""
        return tuple(self._member(role, file)[0].process_id for file in self._files(role))

    def is_empty(self) -> bool:
        """Whether nobody runs at all; not to be asked by one who is in a place."""
        return not any(self.members(role) for role in (COORDINATOR, FRONTEND, WORKER))

    def kill(self, member: Member) -> bool:
        """End a process at once; false if it has ended already."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(member.pid)
            try:
                # The handle stays with its process: if that has the place still, it is the one.
                if member in self.members(member.role):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    return True
            finally:
                os.close(handle)
        return False

    def _files(self, role: str) -> list[Path]:
        folder = self._folder / role
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _member(self, role: str, file: Path) -> tuple[Member, bool]:
        """Who has, or had, a place, and whether it runs. One that has locked the file and not yet
        written to it is not there yet."""
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            start, pid = _read(descriptor)
            holder = locking_pid(descriptor)
        finally:
            os.close(descriptor)
        return Member(f"{file.name}.{start}", role, pid), holder > 0 and holder == pid


def _read(descriptor: int) -> tuple[int, int]:
    """The number of the last start, and its pid; -1, 0 if there was none."""
    start, _, pid = os.pread(descriptor, _RECORD_BYTES, 0).decode().strip().partition(" ")
    return (int(start), int(pid)) if pid else (-1, 0)
