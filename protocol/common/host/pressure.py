"""What the kernel says of memory pressure (PSI), and of processes that it has killed for memory."""

import math
import signal
from pathlib import Path

from headrace.protocol.common.host.cgroups import groups_of

_ROOT = Path("/")
# Share of the last 10 s in which some process waited for memory, in percent: less is not worth a
# word.
WORTH_SAYING_PERCENT = 5.0
# How long a process that is killed may take to end: its memory is given back first.
ENDING_S = 10.0


def memory_pressure(root: Path = _ROOT) -> str:
    """Return a phrase on how much processes wait for memory; "" if hardly, or if none can tell.

    Of the machine and the control groups of this process, the one under the most pressure counts.
    """
    files = [(root / "proc/pressure/memory", "the machine")]
    for group in groups_of("memory", root=root):
        if group.version == 2:
            files.append((group.folder / "memory.pressure", str(group.folder)))
    found = [(*_averages(file), name) for file, name in files]
    some, full, name = max(found)
    if some < WORTH_SAYING_PERCENT:
        return ""
    return (
        f"memory pressure: in the last 10 s processes of {name} waited for memory "
        f"{some:.0f}% of the time, all of them {full:.0f}%"
    )


class MemoryKills:
    """Notices that the kernel kills processes for want of memory. It counts them for the machine
    and for control groups, not by process.

    now: seconds of a monotonic clock.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._counts = _kills(root)
        self._rose_at = -math.inf

    def look(self, now: float) -> None:
        """Note whether the counts have risen; call it some times a minute at least."""
        counts = _kills(self._root)
        if any(count > self._counts.get(name, count) for name, count in counts.items()):
            self._rose_at = now
        self._counts = counts

    def explains(self, exit_status: int | None, now: float) -> bool:
        """Return whether a process that has just ended with SIGKILL was probably killed so.

        exit_status: None: unknown.
        """
        if exit_status not in (None, -signal.SIGKILL):
            return False
        self.look(now)
        return now - self._rose_at < ENDING_S


def _kills(root: Path) -> dict[str, int]:
    """Return the kernel's counts, by the file that has them."""
    counts = {"vmstat": _value(root / "proc/vmstat", "oom_kill")}
    for group in groups_of("memory", root=root):
        file = "memory.events" if group.version == 2 else "memory.oom_control"
        counts[str(group.folder)] = _value(group.folder / file, "oom_kill")
    return counts


def _averages(file: Path) -> tuple[float, float]:
    """Return the percentages of the last 10 s in which some, and all, processes waited."""
    shares = {"some": 0.0, "full": 0.0}
    try:
        for line in file.read_text().splitlines():
            kind, _, rest = line.partition(" avg10=")
            if kind in shares:
                shares[kind] = float(rest.split()[0])
    except (OSError, ValueError, IndexError):  # a kernel without PSI, or with it switched off
        pass
    return shares["some"], shares["full"]


def _value(file: Path, key: str) -> int:
    try:
        for line in file.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == key:
                return int(number)
    except (OSError, ValueError):
        pass
    return 0
