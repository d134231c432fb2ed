"""Calls that wait for a group's first worker, which they have had started."""

from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import TIMEOUT, PoolResult

NOBODY = "no worker has come in time"


class HeldCalls:
    """No clock of its own."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[PoolCall, float]] = {}  # and until when

    def hold(self, call: PoolCall, now: float) -> None:
        """To be tried again, for as long as the call may take since it was held first."""
        self._held.setdefault(call.call_id, (call, now + call.timeout_s))

    def take(self, now: float) -> tuple[list[PoolCall], list[tuple[str, PoolResult]]]:
        """Those to be tried again, and answers to those that have waited for too long."""
        late = [call for call, ends_at in self._held.values() if now >= ends_at]
        for call in late:
            del self._held[call.call_id]
        again = [call for call, _ in self._held.values()]
        return again, [
            (call.frontend_id, PoolResult(call.call_id, (), NOBODY, TIMEOUT)) for call in late
        ]

    def release(self, call: PoolCall) -> None:
        """It waits no more."""
        self._held.pop(call.call_id, None)
