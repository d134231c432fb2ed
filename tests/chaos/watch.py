"""What a pool's processes are doing, seen from outside: who there is, and who could serve."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.servers import Server

POLL_S = 0.03
# How much later than this watch a frontend may learn that a worker is there.
NEWS_S = 2.0
_READY = re.compile(r" is ready \(pid (\d+)\)")
_NAME = re.compile(r"(?:--worker-id|--frontend-id)\0[^\0]*?(\d+)\.\d+\0")
_ROLES = {
    "headrace.workers.main": "worker",
    "headrace.frontend.main": "frontend",
    "headrace.coordinator.main": "coordinator",
    "headrace.workers.fork_server": "fork-server",
}


@dataclass(frozen=True)
class RegisteredProcess:
    """A process of the pool. born: with the pid, tells it from all others."""

    pid: int
    born: str
    role: str
    place: int

    def state(self) -> str:
        """The kernel's letter for it ("T" is stopped), "" when it is gone."""
        fields = _stat(self.pid)
        return fields[0] if fields and fields[19] == self.born and fields[0] not in "ZX" else ""


class Watch:
    """Looks again and again from a thread. members: all that there have ever been.

    outages: times (of the monotonic clock) without any worker that could run a request.
    ready: pids of the workers that have ever been ready.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.running: dict[tuple[int, str], RegisteredProcess] = {}
        self.outages: list[list[float]] = []
        self.ready: set[int] = set()
        self._ended = threading.Event()
        self._in_outage = False
        self._thread = threading.Thread(target=self._run)
        self._look()
        self._thread.start()

    def living(self, role: str) -> list[RegisteredProcess]:
        """The launcher's own children of that role, stopped or not."""
        found = _children(self._server.process.pid)
        return [each for each in found if each.role == role and each.state()]

    def ask_launcher(self, number: int) -> None:
        """Send it a signal."""
        self._server.process.send_signal(number)

    def was_out(self, since: float, until: float) -> bool:
        """Whether a frontend could have believed, at some time, that no worker was there."""
        return any(a <= until and since <= b + NEWS_S for a, b in list(self.outages))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def survivors(self) -> list[RegisteredProcess]:
        return [member for member in self.running.values() if member.state()]

    def _run(self) -> None:
        while not self._ended.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        for member in _descendants(self._server.process.pid):
            self.running.setdefault((member.pid, member.born), member)
        now = time.monotonic()
        self.ready = {int(pid) for pid in _READY.findall(self._server.log)}
        workers = [each for each in self.running.values() if each.role == "worker"]
        if any(each.pid in self.ready and each.state() not in ("", "T") for each in workers):
            self._in_outage = False
        elif self._in_outage:
            self.outages[-1][1] = now
        else:
            self._in_outage = True
            self.outages.append([now - POLL_S, now])


def _descendants(pid: int) -> Iterator[RegisteredProcess]:
    for child in _children(pid):
        yield child
        yield from _descendants(child.pid)


def _children(pid: int) -> list[RegisteredProcess]:
    pids: list[str] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):  # the thread has ended
                pids += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return [member for child in pids if (member := _member(int(child)))]


def _member(pid: int) -> RegisteredProcess | None:
    fields = _stat(pid)
    try:
        command = Path("/proc", str(pid), "cmdline").read_text()
    except OSError:
        return None
    if fields is None:
        return None
    role = next((role for module, role in _ROLES.items() if f"\0{module}\0" in command), "other")
    place = _NAME.search(command)
    return RegisteredProcess(pid, fields[19], role, int(place[1]) if place else 0)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
