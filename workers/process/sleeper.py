"""Put a worker to sleep and wake it up: calls in, operations on its engine out, no clock.

Calls are executed one after the other, with one exception: a WakeUp does not wait for the requests
that a Sleep waits for.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.protocol.call_results import WorkerSleep
from headrace.protocol.calls import ALL_MEMORY, MemoryTag, Sleep, SleepLevel, WakeUp
from headrace.protocol.state import (
    ASLEEP,
    FALLING_ASLEEP,
    READY,
    STARTING,
    WAKING,
    WorkerStatus,
)
from headrace.workers.errors import CallFailed, WorkerError
from headrace.workers.process.call_handlers import CallHandlers, Reply
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.process.engine_thread import OperationDone
from headrace.workers.process.service import Service

log = logging.getLogger("headrace.worker")

ABORTED = "The server was put to sleep before it had answered this request."
_REJECTION = "the worker is asleep"
_PAUSE_S = 1.0  # after a failure: requests that wait have the pool try again at once


class SleepFailed(CallFailed):
    """The worker could not fall asleep. The text is fit to be shown to an operator."""


# The parts that are missing now, and the error if there was one.
Outcome = tuple[frozenset[MemoryTag], Exception | None]
Answer = Callable[[Exception | None], None]  # None: success


@dataclass
class _QueuedCall:
    call: Sleep | WakeUp
    answer: Answer
    begun_at: float | None = None


@dataclass
class Sleeper:
    """Executes Sleep and WakeUp.

    operate: runs one function in the engine's thread, and then the other in this one.
    on_change: called with each new state.
    idle_s: without requests for so long the worker sleeps, at idle_level; None: it does not.
    """

    service: Service
    operate: Callable[[Callable[[EngineMemory], Outcome], Callable[[OperationDone], None]], None]
    on_change: Callable[[WorkerStatus], None]
    idle_s: float | None = None
    idle_level: SleepLevel = 1
    state: WorkerStatus = STARTING
    level: int = 0
    _queue: deque[_QueuedCall] = field(default_factory=deque)
    _is_operating: bool = False
    _missing: frozenset[MemoryTag] = frozenset()
    _idle_since: float | None = None

    def add_handlers(self, handlers: CallHandlers) -> None:
        """Execute the calls that put the worker to sleep and wake it up."""

        def handle(call: Sleep | WakeUp, reply: Reply) -> None:
            def answer(error: Exception | None) -> None:
                if error is None:
                    reply(WorkerSleep(self.state))
                else:
                    reply.fail(error)

            self.enqueue(call, answer)

        handlers.add(Sleep, handle)
        handlers.add(WakeUp, handle)

    def ready(self) -> None:
        """Note that the engine has been loaded."""
        self.service.open()
        self._change(READY)

    def enqueue(self, call: Sleep | WakeUp, answer: Answer) -> None:
        """Queue a call. answer: called once, when it is done or has failed."""
        falls_asleep = self._queue and not self._is_operating and self.state == FALLING_ASLEEP
        if isinstance(call, WakeUp) and falls_asleep:
            self._give_up(SleepFailed("it was woken up before it was asleep"))
        self._queue.append(_QueuedCall(call, answer))

    def tick(self, now: float) -> None:
        """Execute what is possible now; call it often: requests end, and time passes."""
        if self.state == STARTING or self._is_operating:
            return
        self._sleep_if_idle(now)
        while self._queue and not self._is_operating and self._proceed(self._queue[0], now):
            pass

    def _on_operated(self, done: OperationDone) -> None:
        self._is_operating = False
        queued = self._queue.popleft()
        outcome: Outcome = done.value
        self._missing, error = outcome
        if self._missing:
            self._change(ASLEEP)
        else:
            self.level = 0
            self.service.open()
            self._change(READY)
        queued.answer(error)

    def _proceed(self, queued: _QueuedCall, now: float) -> bool:
        """Execute what is possible now; return whether the call has been answered."""
        if isinstance(queued.call, WakeUp):
            return self._wake(queued.call)
        if self.state == ASLEEP and (
            queued.call.level <= self.level and self._missing == set(ALL_MEMORY)
        ):
            self._queue.popleft().answer(None)
            return True
        if queued.begun_at is None:
            queued.begun_at = now
            self._fall_asleep(queued.call)
        if self.service.in_flight:
            if now - queued.begun_at > queued.call.timeout_s:
                running = self.service.in_flight
                self._give_up(SleepFailed(f"{running} requests were still running"))
                return True
            return False
        are_dropped = "weights" in self._missing
        self.level = level = (
            max(self.level, queued.call.level) if are_dropped else queued.call.level
        )
        self._operate(lambda memory: memory.sleep(level))
        return False

    def _wake(self, call: WakeUp) -> bool:
        wanted = self._missing & set(call.tags)
        if not wanted:
            self._queue.popleft().answer(None)
            return True
        self._change(WAKING)
        self._operate(lambda memory: memory.wake(wanted))
        return False

    def _fall_asleep(self, call: Sleep) -> None:
        if self.state != READY:
            return
        self.service.close(_REJECTION)
        self._change(FALLING_ASLEEP)
        if call.mode == "abort":
            self.service.abort_all(ABORTED)
        elif call.mode == "drain" and call.others_are_awake:
            self.service.return_all()

    def _give_up(self, error: SleepFailed) -> None:
        """Stay awake, and answer with an error."""
        queued = self._queue.popleft()
        self.service.open()
        self._change(READY)
        queued.answer(error)

    def _operate(self, act: Callable[[EngineMemory], None]) -> None:
        def run(memory: EngineMemory) -> Outcome:
            try:
                act(memory)
            except WorkerError as error:  # what it says is enough, as at a start
                log.error("cannot wake up: %s", error)
                time.sleep(_PAUSE_S)
                return memory.missing, error
            except Exception as error:
                log.exception("cannot put the engine to sleep, or wake it up")
                time.sleep(_PAUSE_S)
                return memory.missing, error
            return memory.missing, None

        self._is_operating = True
        self.operate(run, self._on_operated)

    def _sleep_if_idle(self, now: float) -> None:
        if self.state != READY or self.service.in_flight or self._queue:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif self.idle_s is not None and now - self._idle_since >= self.idle_s:
            self._idle_since = None
            self.enqueue(Sleep(level=self.idle_level, mode="wait"), lambda error: None)

    def _change(self, state: WorkerStatus) -> None:
        if state != self.state:
            self.state = state
            self.on_change(state)
