"""Calls that wait for a group's first worker, which has been started for them."""

from headrace.coordinator.actions import Answer
from headrace.protocol.calls import TIMEOUT
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import PoolResult

NO_WORKER = "no worker has come in time"


class HeldCalls:
    """Calls to be tried again. No clock of its own."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[PoolCall, float]] = {}  # and until when

    def hold(self, call: PoolCall, now: float) -> None:
        """Hold a call until its timeout, counted from when it was held first."""
        self._held.setdefault(call.call_id, (call, now + call.timeout_s))

    def retry(self, now: float) -> tuple[list[PoolCall], list[Answer]]:
        """Return the calls to try again, and answers to those whose time is over."""
        late = [call for call, ends_at in self._held.values() if now >= ends_at]
        for call in late:
            del self._held[call.call_id]
        again = [call for call, _ in self._held.values()]
        return again, [
            (call.frontend_id, PoolResult(call.call_id, (), NO_WORKER, TIMEOUT)) for call in late
        ]

    def release(self, call: PoolCall) -> None:
        """Stop holding a call."""
        self._held.pop(call.call_id, None)
