"""When a worker pauses and goes on, by a list of events."""

from collections.abc import Callable
from typing import Any

from headrace.protocol.calls import Pause
from headrace.protocol.state import READY, STARTING, WorkerStatus
from headrace.protocol.to_frontend import Aborted, Output, StepOutputs
from headrace.protocol.to_worker import Abort, Generate
from headrace.workers.process.engine_thread import OperationDone
from headrace.workers.process.pauser import ABORTED, Pauser
from tests.workers.process.test_service import ONE, TWO, Wire


class Engine:
    """What an operation is given. resets: of its cache."""

    def __init__(self) -> None:
        self.resets = 0

    @property
    def engine(self) -> "Engine":
        return self

    def reset_prefix_cache(self) -> None:
        self.resets += 1


class Desk:
    """A pauser whose operations end when the test says so."""

    def __init__(self) -> None:
        self.wire, self.engine = Wire(), Engine()
        self._is_frozen, self.now = False, 0.0
        self.state: WorkerStatus = READY
        self.answers: list[str] = []
        self.changes: list[bool] = []
        self._operations: list[Any] = []
        self.pauser = Pauser(
            self.wire.service, self._operate, self._freeze, lambda: self.state, self.changes.append
        )

    def _operate(self, act: Callable[[Any], Any], then: Callable[[OperationDone], None]) -> None:
        self._operations.append((act, then))

    def _freeze(self, is_frozen: bool) -> None:
        self._is_frozen = is_frozen

    def is_frozen(self) -> bool:
        return self._is_frozen

    def operate(self) -> None:
        """The engine's thread does all that it was asked to."""
        while self._operations:
            act, then = self._operations.pop(0)
            then(OperationDone("", act(self.engine)))

    def pause(self, name: str, **options: Any) -> None:
        self.pauser.pause(Pause(**options), self._answer(name))
        self.turn()

    def resume(self, name: str) -> None:
        self.pauser.resume(self._answer(name))

    def _answer(self, name: str) -> Callable[[Exception | None], None]:
        def answer(error: Exception | None) -> None:
            self.answers.append(name if error is None else f"{name}: {error}")

        return answer

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.pauser.tick(self.now)

    def end(self, name: str) -> None:
        self.wire.service.on_outputs([Output(name, (1,), 0, "stop")])

    @property
    def started(self) -> list[str]:
        return [each.request_id for each in self.wire.submitted if isinstance(each, Generate)]


def test_what_comes_meanwhile_waits_and_goes_on_in_order() -> None:
    desk = Desk()
    desk.pause("pause")
    assert desk.answers == []  # a step may be in hand
    desk.operate()
    for name in ("a", "b", "c"):
        desk.wire.generate(ONE, name)
    assert (desk.started, desk.wire.service.held) == ([], 3)
    assert desk.pauser.is_paused
    desk.wire.abort(ONE, "b")
    assert not any(isinstance(each, Abort) for each in desk.wire.submitted)
    desk.resume("resume")
    desk.operate()
    assert desk.started == ["a", "c"]
    assert desk.answers == ["pause", "resume"]
    assert desk.changes == [True, False]
    assert not desk.is_frozen()
    assert desk.engine.resets == 1


def test_running_ones_are_ended() -> None:
    desk = Desk()
    desk.wire.generate(ONE, "a")
    desk.wire.generate(TWO, "b")
    desk.pause("pause", mode="abort", clear_cache=False)
    desk.operate()
    ended = [each for _, each in desk.wire.sent if isinstance(each, Aborted)]
    assert [(each.request_ids, each.reason) for each in ended] == [
        (("a",), ABORTED),
        (("b",), ABORTED),
    ]
    assert desk.answers == ["pause"]
    assert desk.engine.resets == 0
    desk.wire.generate(ONE, "held")
    desk.pause("again")
    desk.operate()
    assert desk.answers == ["pause", "again"]
    assert desk.wire.service.held == 1  # it had not begun


def test_running_ones_are_finished_first() -> None:
    desk = Desk()
    desk.wire.generate(ONE, "a")
    desk.pause("pause", mode="wait")
    desk.wire.generate(ONE, "late")
    desk.operate()
    assert (desk.started, desk.answers, desk.is_frozen()) == (["a"], [], False)
    desk.end("a")
    desk.turn(1.0)
    desk.operate()
    assert desk.answers == ["pause"]
    assert desk.wire.service.held == 1


def test_running_ones_that_take_too_long_go_on_and_so_does_all() -> None:
    desk = Desk()
    desk.wire.generate(ONE, "a")
    desk.pause("short", mode="wait", timeout_s=5.0)
    desk.pause("long", mode="wait", timeout_s=9.0)
    desk.wire.generate(ONE, "b")
    desk.turn(6.0)
    assert desk.answers == ["short: 1 requests were still running"]
    assert desk.started == ["a"]
    desk.turn(6.0)
    assert desk.answers[1:] == ["long: 1 requests were still running"]
    assert desk.started == ["a", "b"]
    assert not desk.pauser.is_holding


def test_running_ones_are_kept() -> None:
    desk = Desk()
    desk.wire.generate(ONE, "a")
    desk.pause("pause", mode="keep")
    desk.operate()
    assert desk.is_frozen()
    assert desk.answers == ["pause"]
    assert not any(isinstance(each, Aborted) for _, each in desk.wire.sent)
    assert desk.engine.resets == 0
    desk.pause("wait", mode="wait")  # what is kept is finished then
    desk.operate()
    assert not desk.is_frozen()
    desk.end("a")
    desk.turn()
    desk.operate()
    assert desk.answers == ["pause", "wait"]
    assert desk.changes == [True, False, True]


def test_whoever_resumes_need_not_wait() -> None:
    desk = Desk()
    desk.wire.generate(ONE, "a")
    desk.pause("wait", mode="wait")
    desk.resume("resume")
    desk.pause("keep", mode="keep")
    desk.resume("again")
    desk.operate()
    failed = "it was resumed before it had paused"
    assert desk.answers == [f"wait: {failed}", "resume", "again", f"keep: {failed}"]
    assert not desk.is_frozen()
    assert not desk.pauser.is_paused


def test_a_worker_that_loads_is_paused_at_once() -> None:
    desk = Desk()
    desk.state = STARTING
    desk.pause("pause")
    assert desk.answers == ["pause"]
    assert desk.pauser.is_paused


def test_a_replay_is_acknowledged_when_it_begins() -> None:
    desk = Desk()
    desk.pause("pause")
    desk.operate()
    desk.wire.generate(ONE, "a", is_replay=True)
    assert desk.wire.sent == []
    desk.resume("resume")
    assert [type(each) for _, each in desk.wire.sent] == [StepOutputs]
