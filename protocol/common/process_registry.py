"""Register running processes by lock files, one for each slot of a pool without a launcher.

A process locks the file of its slot for as long as it lives, and writes the number of its start and
its pid there. The kernel drops the lock when the process ends in any way, and names its holder, so
that a restarted coordinator sees at once what runs and kills no other process.

The locks are those of fcntl(2): they belong to a process, not to a descriptor, so that children do
not keep their parent's slot, and a program that the process executes (exec) does.
"""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from headrace.protocol.common.file_lock import locking_pid, try_lock_for_process

COORDINATOR: Final = "coordinator"
FRONTEND: Final = "frontend"
WORKER: Final = "worker"
FORK_SERVER: Final = "fork-server"  # only with a launcher

Role = Literal["coordinator", "frontend", "worker", "fork-server"]

_RECORD_BYTES = 64


class SlotTaken(Exception):
    """Another process has that slot."""


@dataclass(frozen=True)
class RegisteredProcess:
    """A process that has a slot, or had it."""

    process_id: str
    role: Role
    pid: int


class ProcessRegistry:
    """The lock files of a pool."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "roll"

    def register(self, role: Role, slot: str) -> tuple[str, RegisteredProcess | None]:
        """Take a slot for the rest of this process's life.

        Returns the id, new with each start, and the process that had the slot before. Raises
        SlotTaken if another process has it.
        """
        folder = self._folder / role
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never closed, and inheritable: a program that the process executes keeps the slot.
        descriptor = os.open(folder / slot, os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(descriptor, True)
        if not try_lock_for_process(descriptor):
            os.close(descriptor)
            raise SlotTaken(slot)
        last, pid = _read(descriptor)
        before = None if last < 0 else RegisteredProcess(f"{slot}.{last}", role, pid)
        os.pwrite(descriptor, f"{last + 1} {os.getpid()}".ljust(_RECORD_BYTES).encode(), 0)
        return f"{slot}.{last + 1}", before

    def running(self, role: Role) -> list[RegisteredProcess]:
        """Return the processes of a role that run now."""
        found = (self._member(role, file) for file in self._files(role))
        return [member for member, runs in found if runs]

    def newest_ids(self, role: Role) -> tuple[str, ...]:
        """Return the newest id of each slot that has ever been taken."""
        return tuple(self._member(role, file)[0].process_id for file in self._files(role))

    def is_empty(self) -> bool:
        """Return whether no process runs. A process that has a slot must not ask."""
        return not any(self.running(role) for role in (COORDINATOR, FRONTEND, WORKER))

    def kill(self, member: RegisteredProcess) -> bool:
        """Kill a process; return false if it has ended already."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(member.pid)
            try:
                # The handle stays with its process: it is the right one if that has the slot.
                if member in self.running(member.role):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    return True
            finally:
                os.close(handle)
        return False

    def _files(self, role: Role) -> list[Path]:
        folder = self._folder / role
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _member(self, role: Role, file: Path) -> tuple[RegisteredProcess, bool]:
        """Return the process that has, or had, a slot, and whether it runs. A process that has
        locked the file and not yet written to it does not count."""
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            start, pid = _read(descriptor)
            holder = locking_pid(descriptor)
        finally:
            os.close(descriptor)
        return RegisteredProcess(f"{file.name}.{start}", role, pid), holder > 0 and holder == pid


def _read(descriptor: int) -> tuple[int, int]:
    """Return the number of the last start and its pid; -1, 0 if there was none."""
    start, _, pid = os.pread(descriptor, _RECORD_BYTES, 0).decode().strip().partition(" ")
    return (int(start), int(pid)) if pid else (-1, 0)
