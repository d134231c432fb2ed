"""When a worker pauses and goes on: calls in, operations on its engine out. No clock of its own.

While it is paused it takes requests and starts none: they wait in the service, in the order in
which they came. What has begun before has ended, or is frozen where it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.protocol.state import STARTING
from headrace.workers.process.engine_memory import Residence
from headrace.workers.process.engine_thread import OperationDone
from headrace.workers.process.service import Service

ABORTED = "The server was paused before it had answered this request."


@dataclass(frozen=True)
class Pause:
    """mode: what becomes of what runs: "wait": it is finished first, within timeout_s, or the
    worker goes on. "abort": it is ended. "keep": it is frozen. clear_cache: not with "keep"."""

    mode: Literal["wait", "abort", "keep"] = "abort"
    clear_cache: bool = True
    timeout_s: float = 60.0


class PauseFailed(Exception):
    """The text is fit to be shown to an operator."""


Answer = Callable[[Exception | None], None]  # None: it is done


@dataclass
class _Waiting:
    call: Pause
    answer: Answer
    begun_at: float | None = None


@dataclass
class Pauser:
    """operate: has the engine's thread do something, and then tells. freeze: in that thread: no
    step is made, or steps are made again. state: of the worker. on_change: told `is_paused`."""

    service: Service
    operate: Callable[[Callable[[Residence], Any], Callable[[OperationDone], None]], None]
    freeze: Callable[[bool], None]
    state: Callable[[], str]
    on_change: Callable[[bool], None]
    is_paused: bool = False
    _is_wanted: bool = False
    _waiting: list[_Waiting] = field(default_factory=list)

    @property
    def is_holding(self) -> bool:
        """Whether requests are taken and not started."""
        return self._is_wanted

    def pause(self, call: Pause, answer: Answer) -> None:
        """answer: called once, when nothing runs any more, or it has failed."""
        self._is_wanted = True
        self.service.hold()
        if call.mode == "abort":
            self.service.abort_running(ABORTED)
        elif call.mode == "wait" and self.service.running:
            self._thaw()
            self._waiting.append(_Waiting(call, answer))
            return
        self._settle(call, answer)

    def resume(self, answer: Answer) -> None:
        """Start what waits, and go on with what is frozen."""
        self._is_wanted = False
        for waiting in self._take_waiting():
            waiting.answer(PauseFailed("it was resumed before it had paused"))
        self._thaw()
        self.service.let_go()
        answer(None)

    def turn(self, now: float) -> None:
        """To be called often: requests may have ended, or time may have passed."""
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
        """Nothing is to run any more; wait until the step in hand is over."""
        if self.state() == STARTING:  # nothing has ever run, and its engine's thread is busy
            self._change(True)
            answer(None)
            return

        def act(residence: Residence) -> None:
            self.freeze(True)
            if call.clear_cache and call.mode != "keep":
                residence.engine.reset_prefix_cache()

        def then(done: OperationDone) -> None:
            if self._is_wanted and done.error is None:
                self._change(True)
                answer(None)
            else:
                answer(done.error or PauseFailed("it was resumed before it had paused"))

        self.operate(act, then)

    def _thaw(self) -> None:
        self._change(False)
        self.operate(lambda residence: self.freeze(False), lambda done: None)

    def _give_up(self, waiting: _Waiting) -> None:
        """Go on after all, unless another call waits, too."""
        running = self.service.running
        if not self._waiting:
            self._is_wanted = False
            self.service.let_go()
        waiting.answer(PauseFailed(f"{running} requests were still running"))

    def _take_waiting(self) -> list[_Waiting]:
        taken, self._waiting = self._waiting, []
        return taken

    def _change(self, is_paused: bool) -> None:
        if is_paused != self.is_paused:
            self.is_paused = is_paused
            self.on_change(is_paused)
