"""Pause and resume a worker: calls in, operations on its engine out. No clock of its own.

A paused worker accepts requests and starts none: they wait in the service, in their order. Requests
that ran before have ended, or are frozen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headrace.protocol.call_results import WorkerPaused
from headrace.protocol.calls import OVERTAKEN, Pause, Resume
from headrace.protocol.state import STARTING, WorkerStatus
from headrace.workers.errors import CallFailed
from headrace.workers.process.call_handlers import CallHandlers, Reply
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_thread import OperationDone
from headrace.workers.process.service import Service

ABORTED = "The server was paused before it had answered this request."


class PauseFailed(CallFailed):
    """The worker could not pause. The text is fit to be shown to an operator."""


Answer = Callable[[Exception | None], None]  # None: success


@dataclass
class _Waiting:
    call: Pause
    answer: Answer
    begun_at: float | None = None


@dataclass
class Pauser:
    """Pauses and resumes a worker.

    operate: runs one function in the engine's thread, then the other in this one.
    freeze: called in the engine's thread; whether no step is made. state: returns the worker's.
    on_change: called with `is_paused`.
    """

    service: Service
    operate: Callable[[Callable[[EngineMemory], Any], Callable[[OperationDone], None]], None]
    freeze: Callable[[bool], None]
    state: Callable[[], WorkerStatus]
    on_change: Callable[[bool], None]
    is_paused: bool = False
    _is_pausing: bool = False
    _waiting: list[_Waiting] = field(default_factory=list)

    def add_handlers(self, handlers: CallHandlers) -> None:
        """Execute the calls that pause and resume."""

        def answer_to(reply: Reply) -> Answer:
            def answer(error: Exception | None) -> None:
                if error is None:
                    reply(WorkerPaused(self.is_paused))
                else:
                    reply.fail(error)

            return answer

        handlers.add(Pause, lambda call, reply: self.pause(call, answer_to(reply)))
        handlers.add(Resume, lambda call, reply: self.resume(answer_to(reply)))

    @property
    def is_holding(self) -> bool:
        """Whether requests are accepted but not started."""
        return self._is_pausing

    def pause(self, call: Pause, answer: Answer) -> None:
        """Pause the worker. answer: called once, when nothing runs any more, or on failure."""
        self._is_pausing = True
        self.service.hold()
        if call.mode == "abort":
            self.service.abort_running(ABORTED)
        elif call.mode == "wait" and self.service.running:
            self._thaw()
            self._waiting.append(_Waiting(call, answer))
            return
        self._settle(call, answer)

    def resume(self, answer: Answer) -> None:
        """Start what waits, and continue what is frozen."""
        self._is_pausing = False
        for waiting in self._take_waiting():
            waiting.answer(PauseFailed(OVERTAKEN))
        self._thaw()
        self.service.release()
        answer(None)

    def tick(self, now: float) -> None:
        """Finish pauses whose requests have ended, or whose time is over; call it often."""
        for waiting in list(self._waiting):
            if waiting.begun_at is None:
                waiting.begun_at = now
            if not self.service.running:
                self._waiting.remove(waiting)
                self._settle(waiting.call, waiting.answer)
            elif now - waiting.begun_at > waiting.call.timeout_s:
                self._waiting.remove(waiting)
                self._give_up(waiting)

    def _settle(self, call: Pause, answer: Answer) -> None:
        """Freeze the engine after the current step."""
        if self.state() == STARTING:  # nothing has ever run, and the engine's thread is loading
            self._change(True)
            answer(None)
            return

        def act(memory: EngineMemory) -> None:
            self.freeze(True)
            if call.clear_cache and call.mode != "keep":
                memory.engine.reset_prefix_cache()

        def then(done: OperationDone) -> None:
            if self._is_pausing and done.error is None:
                self._change(True)
                answer(None)
            else:
                answer(done.error or PauseFailed(OVERTAKEN))

        self.operate(act, then)

    def _thaw(self) -> None:
        self._change(False)
        self.operate(lambda memory: self.freeze(False), lambda done: None)

    def _give_up(self, waiting: _Waiting) -> None:
        """Resume, unless another call waits, too."""
        running = self.service.running
        if not self._waiting:
            self._is_pausing = False
            self.service.release()
        waiting.answer(PauseFailed(f"{running} requests were still running"))

    def _take_waiting(self) -> list[_Waiting]:
        taken, self._waiting = self._waiting, []
        return taken

    def _change(self, is_paused: bool) -> None:
        if is_paused != self.is_paused:
            self.is_paused = is_paused
            self.on_change(is_paused)
