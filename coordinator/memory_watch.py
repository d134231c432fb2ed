"""Say in the log when memory is why a worker is slow, is killed, or has ended."""

from collections.abc import Callable, Iterable

from headrace.protocol.common.host.pressure import MemoryKills, memory_pressure
from headrace.protocol.state import STARTING, WAKING, WorkerState

LOOK_S = 1.0
# A worker whose step has not ended for so long seems to be held up.
SLOW_STEP_S = 2.0
AGAIN_S = 60.0


class MemoryWatch:
    """Asks the kernel. now: seconds of a monotonic clock.

    pressure: returns a phrase, or "" without pressure.
    """

    def __init__(
        self,
        pressure: Callable[[], str] = memory_pressure,
        kills: MemoryKills | None = None,
    ) -> None:
        self._pressure = pressure
        self._kills = kills or MemoryKills()
        self._look_at = self._warn_at = 0.0

    def cause_of_end(self, exit_code: int | None, now: float) -> str:
        """Return a phrase if a worker that has just ended was killed for memory, else ""."""
        if self._kills.explains(exit_code, now):
            return self.with_pressure("killed by the kernel for want of memory")
        return ""

    def warning(self, workers: Iterable[WorkerState], now: float) -> str:
        """Return a line if workers are waited for under memory pressure; at most one a minute."""
        if now < self._look_at:
            return ""
        self._look_at = now + LOOK_S
        self._kills.look(now)
        slow = [worker.worker_id for worker in workers if _is_waited_for(worker)]
        if not slow or now < self._warn_at:
            return ""
        phrase = self._pressure()
        if not phrase:
            return ""
        self._warn_at = now + AGAIN_S
        return f"waiting for {', '.join(slow)}; {phrase}"

    def with_pressure(self, reason: str) -> str:
        """Return why a worker is killed, and the memory pressure if there is any."""
        phrase = self._pressure()
        return f"{reason}; {phrase}" if phrase else reason


def _is_waited_for(worker: WorkerState) -> bool:
    return worker.state in (STARTING, WAKING) or worker.load.step_age_s > SLOW_STEP_S
