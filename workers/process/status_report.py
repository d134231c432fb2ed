"""Report a worker's status to systemd."""

from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.state import WorkerLoad


class StatusReport:
    """Call `beat` a few times a second from the messaging thread."""

    def __init__(self, notifier: Notifier, stall_timeout_s: float) -> None:
        self._notifier, self._stall_timeout_s = notifier, stall_timeout_s
        self._ready = False
        notifier.status("loading the model")

    def ready(self) -> None:
        """Report that the engine can serve."""
        self._ready = True
        self._notifier.ready("ready")

    def draining(self, in_flight: int) -> None:
        self._notifier.stopping(f"finishing {in_flight} requests")

    def beat(self, load: WorkerLoad) -> None:
        """Feed the watchdog while the engine is idle or makes steps: this thread would also run
        with a frozen engine."""
        if load.step_age_s <= self._stall_timeout_s:
            self._notifier.alive()
        if self._ready:
            self._notifier.status(_describe(load))


def _describe(load: WorkerLoad) -> str:
    if not load.running and not load.waiting:
        return "ready, idle"
    cache = f"{load.kv_usage:.0%} of the cache in use"
    return f"ready, {load.running} requests running, {load.waiting} waiting, {cache}"
