"""Time the phases of a worker's start, or of loading its model again."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The phases of a start, in this order. Not every start has all of them.
PHASES = ("imports", "weights", "compile", "self-check", "cache")
# Time outside all phases is reported only from here on.
_SHOWN_S = 0.05


class StartPhases:
    """A stopwatch for one start. since: on the monotonic clock; None: from now on."""

    def __init__(self, since: float | None = None) -> None:
        self._since = time.monotonic() if since is None else since
        self._seconds: dict[str, float] = {}

    @classmethod
    def of_process(cls) -> "StartPhases":
        """Return a stopwatch that began with this process, and counts `imports` from there."""
        return cls(time.monotonic() - _process_age_s())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the body of the context as a phase. Phases must not be nested."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._add(name, time.monotonic() - begun)

    def end_imports(self) -> None:
        """Record all the time since the start as spent on importing."""
        self._seconds["imports"] = time.monotonic() - self._since

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase, in the order of a start."""
        return {name: self._seconds[name] for name in PHASES if name in self._seconds}

    def describe(self) -> str:
        """Summarize the start in one line for the operator."""
        total = time.monotonic() - self._since
        parts = self.seconds()
        rest = total - sum(parts.values())
        if rest >= _SHOWN_S:
            parts["rest"] = rest
        shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
        return f"ready after {total:.1f} s" + (f": {shown}" if shown else "")

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


def _process_age_s() -> float:
    """Return the seconds since this process was created, by a fork alone or with exec.

    Its resolution is 0.01 s.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
