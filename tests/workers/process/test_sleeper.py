"""When a worker sleeps and wakes, by a list of events."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace.protocol.calls import ALL_MEMORY, MemoryTag, Sleep, WakeUp
from headrace.protocol.state import ASLEEP, FALLING_ASLEEP, READY, WAKING, WorkerStatus
from headrace.protocol.to_frontend import Aborted, Rejected
from headrace.workers.errors import ModelUnsupported
from headrace.workers.process.engine_thread import OperationDone
from headrace.workers.process.sleeper import ABORTED, Sleeper
from tests.workers.process.test_service import ONE, Wire

ALL = frozenset(ALL_MEMORY)


@dataclass
class EngineMemory:
    """Remembers what was done to it. broken: what waking fails of."""

    missing: frozenset[MemoryTag] = frozenset()
    done: list[Any] = field(default_factory=list)
    broken: Exception | None = None

    def sleep(self, level: int) -> None:
        self.done.append(level)
        self.missing = ALL

    def wake(self, tags: Iterable[MemoryTag]) -> None:
        if self.broken is not None:
            raise self.broken
        self.done.append(set(tags))
        self.missing = self.missing - set(tags)


class Bed:
    """A sleeper whose operations end when the test says so."""

    def __init__(self, **options: Any) -> None:
        self.wire, self.residence = Wire(ready=False), EngineMemory()
        self.states: list[str] = []
        self.answers: list[str] = []
        self._operations: list[Any] = []
        self.now = 0.0
        self.sleeper = Sleeper(self.wire.service, self._operate, self.states.append, **options)
        self.sleeper.ready()

    def _operate(self, act: Callable[[Any], Any], then: Callable[[OperationDone], None]) -> None:
        self._operations.append((act, then))

    def ask(self, name: str, call: Sleep | WakeUp) -> None:
        def answer(error: Exception | None) -> None:
            self.answers.append(name if error is None else f"{name}: {error}")

        self.sleeper.enqueue(call, answer)
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.sleeper.tick(self.now)

    def operate(self) -> None:
        """The engine's thread does what it was asked to."""
        act, then = self._operations.pop(0)
        then(OperationDone("", act(self.residence)))
        self.turn()

    def state(self) -> WorkerStatus:
        return self.sleeper.state

    @property
    def is_operating(self) -> bool:
        return bool(self._operations)


def test_an_idle_worker_sleeps_and_wakes() -> None:
    bed = Bed()
    bed.ask("sleep", Sleep(level=1))
    assert bed.answers == []
    bed.operate()
    bed.ask("wake", WakeUp())
    bed.operate()
    assert bed.answers == ["sleep", "wake"]
    assert bed.states == [READY, FALLING_ASLEEP, ASLEEP, WAKING, READY]
    assert bed.residence.done == [1, set(ALL_MEMORY)]


def test_what_is_done_already_is_not_done_again() -> None:
    bed = Bed()
    bed.ask("wake", WakeUp())
    assert bed.answers == ["wake"]
    bed.ask("sleep", Sleep(level=2))
    bed.operate()
    for level in (1, 2):
        bed.ask(f"sleep {level}", Sleep(level=level))
    assert bed.answers == ["wake", "sleep", "sleep 1", "sleep 2"]
    assert bed.residence.done == [2]
    assert not bed.is_operating


def test_sleep_can_become_deeper() -> None:
    bed = Bed()
    bed.ask("light", Sleep(level=1))
    bed.operate()
    bed.ask("deep", Sleep(level=2))
    bed.operate()
    assert bed.residence.done == [1, 2]
    assert bed.sleeper.state == ASLEEP


def test_requests_in_flight_are_finished_first() -> None:
    bed = Bed()
    bed.wire.generate(ONE, "a")
    bed.ask("sleep", Sleep(mode="wait"))
    bed.turn(1.0)
    assert not bed.is_operating
    assert bed.sleeper.state == FALLING_ASLEEP
    bed.wire.generate(ONE, "b")
    assert isinstance(bed.wire.sent[-1][1], Rejected)
    assert bed.wire.sent[-1][1].retry_elsewhere
    bed.wire.abort(ONE, "a")
    bed.turn()
    bed.operate()
    assert bed.answers == ["sleep"]


@pytest.mark.parametrize("others_are_awake", [True, False])
def test_draining_hands_requests_to_those_who_stay_awake(others_are_awake: bool) -> None:
    bed = Bed()
    bed.wire.generate(ONE, "a")
    bed.ask("sleep", Sleep(mode="drain", others_are_awake=others_are_awake))
    assert bed.is_operating == others_are_awake
    told = [message for _, message in bed.wire.sent if isinstance(message, Rejected)]
    assert [each.request_id for each in told] == (["a"] if others_are_awake else [])
    assert all(each.retry_elsewhere for each in told)


def test_aborted_requests_are_told_so() -> None:
    bed = Bed()
    for name in ("a", "b"):
        bed.wire.generate(ONE, name)
    bed.ask("sleep", Sleep(mode="abort"))
    assert bed.wire.sent[-1] == (ONE, Aborted("w", 0, ("a", "b"), ABORTED))
    assert bed.is_operating


def test_who_waits_too_long_stays_awake() -> None:
    bed = Bed()
    bed.wire.generate(ONE, "a")
    bed.ask("sleep", Sleep(mode="wait", timeout_s=5.0))
    bed.turn(4.9)
    assert bed.answers == []
    bed.turn(0.2)
    assert bed.answers == ["sleep: 1 requests were still running"]
    assert bed.sleeper.state == READY
    bed.wire.generate(ONE, "b")
    assert bed.wire.service.in_flight == 2


def test_waking_need_not_wait_for_requests_to_end() -> None:
    bed = Bed()
    bed.wire.generate(ONE, "a")
    bed.ask("sleep", Sleep(mode="wait"))
    bed.ask("wake", WakeUp())
    assert bed.answers == ["sleep: it was woken up before it was asleep", "wake"]
    assert bed.sleeper.state == READY
    assert bed.residence.done == []


def test_calls_during_an_operation_wait_for_it() -> None:
    bed = Bed()
    bed.ask("sleep", Sleep())
    bed.ask("wake", WakeUp())
    bed.ask("again", Sleep(level=2))
    for _ in range(3):
        bed.operate()
    assert bed.answers == ["sleep", "wake", "again"]
    assert bed.residence.done == [1, set(ALL_MEMORY), 2]


@pytest.mark.parametrize(("first", "second"), [ALL_MEMORY, ALL_MEMORY[::-1]])
def test_it_wakes_step_by_step(first: MemoryTag, second: MemoryTag) -> None:
    bed = Bed()
    bed.ask("sleep", Sleep())
    bed.operate()
    bed.ask("first", WakeUp((first,)))
    bed.operate()
    assert bed.state() == ASLEEP
    bed.ask("first again", WakeUp((first,)))
    bed.ask("second", WakeUp((second,)))
    bed.operate()
    assert bed.state() == READY
    assert bed.answers == ["sleep", "first", "first again", "second"]


def test_what_cannot_be_woken_stays_asleep_and_may_be_tried_again() -> None:
    bed = Bed()
    bed.ask("sleep", Sleep())
    bed.operate()
    bed.residence.broken = MemoryError("no room")
    bed.ask("wake", WakeUp())
    bed.operate()
    assert bed.answers[-1] == "wake: no room"
    assert bed.state() == ASLEEP
    bed.residence.broken = None
    bed.ask("wake", WakeUp())
    bed.operate()
    assert bed.state() == READY


def test_an_idle_worker_sleeps_by_itself() -> None:
    bed = Bed(idle_s=10.0, idle_level=2)
    bed.turn(0.0)
    bed.turn(9.0)
    bed.wire.generate(ONE, "a")
    bed.turn(5.0)
    bed.wire.abort(ONE, "a")
    bed.turn(1.0)
    bed.turn(9.9)
    assert not bed.is_operating
    bed.turn(0.2)
    bed.turn()
    bed.operate()
    assert bed.residence.done == [2]
    bed.turn(100.0)
    assert not bed.is_operating


def test_a_model_that_cannot_be_loaded_again_is_one_line_and_no_hurry(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests that wait have the pool try again as soon as waking has failed."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    bed = Bed()
    bed.ask("sleep", Sleep(level=2, mode="wait"))
    bed.operate()
    bed.residence.broken = ModelUnsupported("model.gguf: has changed since the start")
    bed.ask("wake", WakeUp())
    bed.operate()
    assert pauses == [1.0]
    (record,) = caplog.records
    assert record.getMessage() == "cannot wake up: model.gguf: has changed since the start"
    assert record.exc_info is None
