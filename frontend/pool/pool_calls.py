"""Admin calls of this frontend that the coordinator has not answered yet."""

import asyncio
import secrets
from collections.abc import Callable

from headrace.frontend.pool.interface import PoolUnavailable
from headrace.protocol.calls import AnyCall, CallTarget
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import PoolResult

# Extra time for the coordinator to answer after a timeout; it may have to be restarted.
LATE_S = 10.0


class PoolCalls:
    """Sends calls to the coordinator, and waits for their results.

    send: sends a message to the coordinator, which may be lost with it.
    """

    def __init__(self, frontend_id: str, send: Callable[[PoolCall], None]) -> None:
        self._frontend_id, self._send = frontend_id, send
        self._pending: dict[str, tuple[PoolCall, asyncio.Future[PoolResult]]] = {}

    async def call(self, call: AnyCall, target: CallTarget, timeout_s: float) -> PoolResult:
        """Make a call and return its result (see Pool.call)."""
        call_id = f"{self._frontend_id}-{secrets.token_hex(8)}"
        message = PoolCall(call_id, self._frontend_id, call, target, timeout_s)
        answer: asyncio.Future[PoolResult] = asyncio.get_running_loop().create_future()
        self._pending[call_id] = message, answer
        try:
            self._send(message)
            async with asyncio.timeout(timeout_s + LATE_S):
                return await answer
        except TimeoutError:
            raise PoolUnavailable("the coordinator does not answer") from None
        finally:
            del self._pending[call_id]

    def on_result(self, result: PoolResult) -> None:
        pending = self._pending.get(result.call_id)
        if pending is not None and not pending[1].done():
            pending[1].set_result(result)

    def repeat(self) -> None:
        """Send all pending calls again, to a new coordinator."""
        for message, _ in self._pending.values():
            self._send(message)
