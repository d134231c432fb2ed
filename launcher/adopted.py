"""Children that the launcher has not started itself: processes that lost their parent."""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Collection
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


class AdoptedProcess:
    """A child of this process, with what asyncio's own processes have. OSError if it is none."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._fd = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        try:
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except OSError:
            os.close(self._fd)
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._on_end)

    async def wait(self) -> int:
        """Its exit code; negative: the signal that killed it."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            signal.pidfd_send_signal(self._fd, number)

    def _on_end(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._ended.set()


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(known: Collection[int]) -> None:
    """Let go of children that have ended, except the known ones, whom somebody waits for."""
    for pid in _child_pids() - set(known):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _child_pids() -> set[int]:
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended, or the kernel does not say
            pids.update(map(int, (task / "children").read_text().split()))
    return pids
