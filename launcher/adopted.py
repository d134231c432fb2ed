"""Children that the launcher has not started itself: processes whose parent has ended."""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Collection
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


class AdoptedProcess:
    """A child of this process, with the interface of asyncio's own processes.

    Raises OSError if the pid is not a child's.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._fd = os.pidfd_open(pid)
        self._exited = asyncio.Event()
        try:
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except OSError:
            os.close(self._fd)
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._on_exit)

    async def wait(self) -> int:
        """Wait for the exit status; negative: the signal that killed the process."""
        await self._exited.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; does nothing after the exit."""
        if self.returncode is None:
            signal.pidfd_send_signal(self._fd, number)

    def _on_exit(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._exited.set()


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(known: Collection[int]) -> None:
    """Reap children that have ended, except the known pids, which are awaited elsewhere."""
    for pid in _child_pids() - set(known):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _child_pids() -> set[int]:
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended, or the kernel does not say
            pids.update(map(int, (task / "children").read_text().split()))
    return pids
