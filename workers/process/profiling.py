"""Calls to profile a worker, and the end of a profile that nobody ends. No clock of its own."""

import logging
from typing import Any

from headrace.protocol.to_worker import Call
from headrace.workers.process.calls import Calls, reason
from headrace.workers.process.engine_memory import Residence
from headrace.workers.process.engine_thread import OperationDone
from headrace.workers.process.profiler import TORCH, Profiler

log = logging.getLogger(__name__)


class Profiling:
    """max_s: after so long a profile ends by itself, for it grows with every step."""

    def __init__(self, calls: Calls, profiler: Profiler, max_s: float) -> None:
        self._calls, self._profiler, self._max_s = calls, profiler, max_s
        self._now = 0.0
        self._ends_at: float | None = None
        calls.add("start_profile", self._start)
        calls.add("stop_profile", self._stop)

    def turn(self, now: float) -> None:
        """To be called often."""
        self._now = now
        if self._ends_at is not None and now >= self._ends_at:
            log.warning("the profile has lasted %g s: it is ended", self._max_s)
            self._ends_at = None
            self._calls.operate(lambda residence: self._profiler.stop(), lambda done: None)

    def _start(self, call: Call, arguments: dict[str, Any]) -> None:
        kind = str(arguments.get("mode", TORCH))

        def act(residence: Residence) -> bool:
            return self._profiler.start(kind)

        def then(done: OperationDone) -> None:
            if done.value:
                self._ends_at = self._now + self._max_s
            self._calls.answer(call, {"started": bool(done.value)}, reason(done.error))

        self._calls.operate(act, then)

    def _stop(self, call: Call, arguments: dict[str, Any]) -> None:
        def act(residence: Residence) -> str | None:
            return self._profiler.stop()

        def then(done: OperationDone) -> None:
            self._ends_at = None
            self._calls.answer(call, {"trace": done.value}, reason(done.error))

        self._calls.operate(act, then)
