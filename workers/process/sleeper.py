"""When a worker sleeps and wakes: calls in, operations on its engine out. No clock of its own.

One call after the other, with one exception: whoever wants the worker awake need not wait for
requests to end so that it can sleep.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from headrace.protocol.state import ASLEEP, FALLING_ASLEEP, READY, STARTING, WAKING
from headrace.workers.process.engine_memory import TAGS, Residence, Tag
from headrace.workers.process.service import Service

Mode = Literal["drain", "abort", "wait"]

log = logging.getLogger(__name__)

ABORTED = "The server was put to sleep before it had answered this request."
_REFUSAL = "the worker sleeps"


@dataclass(frozen=True)
class Sleep:
    """mode: what becomes of requests in flight. "wait": they are finished. "drain": they go on in
    another worker if one is awake, else they are finished. "abort": they are ended.
    timeout_s: how long to wait for them; then the worker stays awake.
    """

    level: int = 1
    mode: Mode = "drain"
    timeout_s: float = 60.0
    others_are_awake: bool = False


@dataclass(frozen=True)
class Wake:
    tags: tuple[Tag, ...] = TAGS


class SleepFailed(Exception):
    """The text is fit to be shown to an operator."""


# What the engine lacks now, and what failed.
Outcome = tuple[frozenset[Tag], Exception | None]
Answer = Callable[[Exception | None], None]  # None: it is done


@dataclass
class _Asked:
    call: Sleep | Wake
    answer: Answer
    begun_at: float | None = None


@dataclass
class Sleeper:
    """operate: has the engine's thread run something, and then `on_operated` called.
    on_change: told each new state.
    idle_s: after so long without a request it sleeps by itself, at idle_level; None: it does not.
    """

    service: Service
    operate: Callable[[Callable[[Residence], Outcome]], None]
    on_change: Callable[[str], None]
    idle_s: float | None = None
    idle_level: int = 1
    state: str = STARTING
    level: int = 0
    _asked: deque[_Asked] = field(default_factory=deque)
    _is_operating: bool = False
    _missing: frozenset[Tag] = frozenset()
    _idle_since: float | None = None

    def ready(self) -> None:
        """The engine has been loaded."""
        self.service.open()
        self._change(READY)

    def ask(self, call: Sleep | Wake, answer: Answer) -> None:
        """answer: called once, when it is done or has failed."""
        falls_asleep = self._asked and not self._is_operating and self.state == FALLING_ASLEEP
        if isinstance(call, Wake) and falls_asleep:
            self._give_up(SleepFailed("it was woken before it slept"))
        self._asked.append(_Asked(call, answer))

    def turn(self, now: float) -> None:
        """To be called often: requests may have ended, or time may have passed."""
        if self.state == STARTING or self._is_operating:
            return
        self._note_idleness(now)
        while self._asked and not self._is_operating and self._proceed(self._asked[0], now):
            pass

    def on_operated(self, outcome: Outcome) -> None:
        """An operation is over."""
        self._is_operating = False
        asked = self._asked.popleft()
        self._missing, error = outcome
        if self._missing:
            self._change(ASLEEP)
        else:
            self.level = 0
            self.service.open()
            self._change(READY)
        asked.answer(error)

    def _proceed(self, asked: _Asked, now: float) -> bool:
        """Do what can be done now; whether the call has been answered."""
        if isinstance(asked.call, Wake):
            return self._wake(asked.call)
        if self.state == ASLEEP and (asked.call.level <= self.level and self._missing == set(TAGS)):
            self._asked.popleft().answer(None)
            return True
        if asked.begun_at is None:
            asked.begun_at = now
            self._fall_asleep(asked.call)
        if self.service.in_flight:
            if now - asked.begun_at > asked.call.timeout_s:
                running = self.service.in_flight
                self._give_up(SleepFailed(f"{running} requests were still running"))
                return True
            return False
        are_dropped = "weights" in self._missing
        self.level = level = max(self.level, asked.call.level) if are_dropped else asked.call.level
        self._operate(lambda residence: residence.sleep(level))
        return False

    def _wake(self, call: Wake) -> bool:
        wanted = self._missing & set(call.tags)
        if not wanted:
            self._asked.popleft().answer(None)
            return True
        self._change(WAKING)
        self._operate(lambda residence: residence.wake(wanted))
        return False

    def _fall_asleep(self, call: Sleep) -> None:
        if self.state != READY:
            return
        self.service.close(_REFUSAL)
        self._change(FALLING_ASLEEP)
        if call.mode == "abort":
            self.service.abort_all(ABORTED)
        elif call.mode == "drain" and call.others_are_awake:
            self.service.hand_back()

    def _give_up(self, error: SleepFailed) -> None:
        """Stay awake after all."""
        asked = self._asked.popleft()
        self.service.open()
        self._change(READY)
        asked.answer(error)

    def _operate(self, act: Callable[[Residence], None]) -> None:
        def run(residence: Residence) -> Outcome:
            try:
                act(residence)
            except Exception as error:
                log.exception("the engine could not be put to sleep, or be woken")
                return residence.missing, error
            return residence.missing, None

        self._is_operating = True
        self.operate(run)

    def _note_idleness(self, now: float) -> None:
        if self.state != READY or self.service.in_flight or self._asked:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif self.idle_s is not None and now - self._idle_since >= self.idle_s:
            self._idle_since = None
            self.ask(Sleep(level=self.idle_level, mode="wait"), lambda error: None)

    def _change(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.on_change(state)
