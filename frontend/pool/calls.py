"""Calls of this frontend to the whole pool, until the coordinator has answered."""

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any

from headrace.frontend.pool.interface import PoolUnavailable, Scope
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import PoolResult

# The coordinator answers when a call's time is over, and it may have to be started again.
LATE_S = 10.0


class Calls:
    """tell: sends a message to the coordinator, which may be lost with it."""

    def __init__(self, frontend_id: str, tell: Callable[[PoolCall], None]) -> None:
        self._frontend_id, self._tell = frontend_id, tell
        self._pending: dict[str, tuple[PoolCall, asyncio.Future[PoolResult]]] = {}

    async def call(
        self, method: str, arguments: dict[str, Any], scope: Scope, timeout_s: float
    ) -> PoolResult:
        """See Pool.call."""
        call_id = f"{self._frontend_id}-{secrets.token_hex(8)}"
        text = json.dumps(arguments)
        call = PoolCall(
            call_id, self._frontend_id, method, text, scope.group, scope.worker, timeout_s
        )
        answer: asyncio.Future[PoolResult] = asyncio.get_running_loop().create_future()
        self._pending[call_id] = call, answer
        try:
            self._tell(call)
            return await asyncio.wait_for(answer, timeout_s + LATE_S)
        except TimeoutError:
            raise PoolUnavailable("the coordinator does not answer") from None
        finally:
            del self._pending[call_id]

    def on_result(self, result: PoolResult) -> None:
        pending = self._pending.get(result.call_id)
        if pending is not None and not pending[1].done():
            pending[1].set_result(result)

    def repeat(self) -> None:
        """The coordinator is a new one, which knows of no call."""
        for call, _ in self._pending.values():
            self._tell(call)
