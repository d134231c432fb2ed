"""Calls to pause a worker and to have it go on."""

from typing import Any

from headrace.protocol.to_worker import Call
from headrace.workers.process.calls import Calls, reason
from headrace.workers.process.pauser import Pause, Pauser


class Pausing:
    def __init__(self, calls: Calls, pauser: Pauser) -> None:
        self._calls, self._pauser = calls, pauser
        calls.add("pause", self._pause)
        calls.add("resume", self._resume)

    def _pause(self, call: Call, arguments: dict[str, Any]) -> None:
        self._pauser.pause(Pause(**arguments), lambda error: self._answer(call, error))

    def _resume(self, call: Call, arguments: dict[str, Any]) -> None:
        self._pauser.resume(lambda error: self._answer(call, error))

    def _answer(self, call: Call, error: Exception | None) -> None:
        self._calls.answer(call, {"is_paused": self._pauser.is_paused}, reason(error))
