"""LoRA adapters that come and go, by lists of events."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.coordinator.actions import Actions, WorkerMessage
from headrace.coordinator.adapter_manager import AdapterManager
from headrace.coordinator.call_router import ENDED, NO_ANSWER, OWN
from headrace.protocol.call_results import AdapterAdded, AnyResult, ConditionMet, Done
from headrace.protocol.calls import (
    CONFLICT,
    FAILED,
    INVALID,
    MISSING,
    TIMEOUT,
    UNFIT,
    AddAdapter,
    AdminCall,
    AwaitAdapterShown,
    AwaitAdapterUnused,
    CallTarget,
    LoadAdapter,
    RemoveAdapter,
    UnloadAdapter,
)
from headrace.protocol.common.adapters import adapter_folder
from headrace.protocol.config import EngineConfig, GroupConfig, PoolConfig
from headrace.protocol.state import (
    ASLEEP,
    READY,
    STARTING,
    GroupState,
    PoolState,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import CallAnswer, PoolResult

IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)
ASKER = "frontend-0.0"


def group(name: str, takes_adapters: bool) -> GroupConfig:
    here = Path("/m")
    return GroupConfig(
        name=name,
        model="m",
        model_path=here,
        text_path=here,
        served_names=(name,),
        engine=EngineConfig(enable_lora=takes_adapters),
    )


class Pool:
    """Groups a and b, which take adapters, and c, which does not."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.now = run_dir, 0.0
        self.told: list[tuple[CallAnswer, ...]] = []  # what came of a call at each worker
        groups = (group("a", True), group("b", True), group("c", False))
        self.config = PoolConfig(run_dir=run_dir, groups=groups)
        self.adapters = AdapterManager(self.config)

    def restart(self) -> Actions:
        """Another coordinator takes over, which knows only what has been written."""
        self.adapters = AdapterManager(self.config)
        return self.adapters.resume()

    def load(
        self, name: str, adapter_id: str, call: str = "l", of: str = "a", in_place: bool = False
    ) -> Actions:
        adapter_folder(self.run_dir, adapter_id).mkdir(parents=True, exist_ok=True)
        load = LoadAdapter(name, adapter_id, name, in_place)
        message = PoolCall(call, ASKER, load, CallTarget(of), 60.0)
        return self.adapters.on_load(load, message, self.now)

    def unload(self, name: str, call: str = "u", of: str = "") -> Actions:
        unload = UnloadAdapter(name)
        message = PoolCall(call, ASKER, unload, CallTarget(of), 30.0)
        return self.adapters.on_unload(unload, message, self.now)

    def loaded(
        self, name: str, adapter_id: str, call: str = "l", in_place: bool = False
    ) -> Actions:
        """It is served by now; the last steps."""
        steps = self.load(name, adapter_id, call, in_place=in_place)
        steps = self.answer(steps, AddAdapter, AdapterAdded())
        return self.answer(steps, AwaitAdapterShown, ConditionMet(True))

    def answer(
        self,
        steps: Actions,
        kind: type[AdminCall],
        *values: AnyResult,
        errors: tuple[str, ...] = (),
    ) -> Actions:
        """Everybody has answered the one call of these steps."""
        (call,) = steps.calls
        assert (type(call.call), call.frontend_id) == (kind, OWN)
        answers = [CallAnswer(f"a-{n}.0", v, "", 0) for n, v in enumerate(values)]
        answers += [CallAnswer(f"x-{n}.0", None, error, 0) for n, error in enumerate(errors)]
        steps = self.adapters.on_result(PoolResult(call.call_id, tuple(answers)))
        self.told = [result.answers for _, result in steps.answers]
        stripped = [(name, replace(result, answers=())) for name, result in steps.answers]
        return replace(steps, answers=tuple(stripped))

    def shown(self, of: str = "a") -> dict[str, str]:
        """Adapters that take requests: names and ids."""
        states = tuple(GroupState(each.name, 1, "") for each in self.config.groups)
        state = self.adapters.shown_in(PoolState("e", 1, states, (), ()))
        (found,) = [each for each in state.groups if each.name == of]
        return {each.name: each.adapter_id for each in found.adapters if not each.is_draining}

    def hello(
        self, worker_id: str, *adapters: str, state: WorkerStatus = READY
    ) -> list[WorkerMessage]:
        worker = WorkerState(worker_id, worker_id[0], 1, state, "", IDLE, adapters=adapters)
        return self.adapters.on_hello(worker, [worker_id])

    def kept(self) -> set[str]:
        """Ids of the adapters whose files are there."""
        folder = adapter_folder(self.run_dir, "x").parent
        return {each.name for each in folder.iterdir()}


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


def done(call: str = "l") -> tuple[tuple[str, PoolResult], ...]:
    return ((ASKER, PoolResult(call, ())),)


def refusal(steps: Actions) -> tuple[str, str]:
    ((_, result),) = steps.answers
    return result.error, result.kind


def test_workers_have_it_before_frontends_show_it_and_they_before_it_is_done(pool: Pool) -> None:
    steps = pool.load("sql", "1")
    assert (steps.answers, steps.publish, pool.shown()) == ((), False, {})
    (call,) = steps.calls
    assert (call.target, call.call) == (CallTarget("a"), AddAdapter("1"))
    steps = pool.answer(steps, AddAdapter, AdapterAdded(), AdapterAdded())
    assert (steps.answers, steps.publish, pool.shown()) == ((), True, {"sql": "1"})
    assert pool.shown("b") == {}
    assert pool.answer(steps, AwaitAdapterShown, ConditionMet(True), ConditionMet(True)) == Actions(
        answers=done()
    )


def test_what_came_of_it_at_each_worker_is_told(pool: Pool) -> None:
    steps = pool.answer(
        pool.load("sql", "1"), AddAdapter, AdapterAdded(), AdapterAdded(), errors=(ENDED,)
    )
    pool.answer(steps, AwaitAdapterShown, ConditionMet(True))
    assert [(each.process_id, each.error) for each in pool.told[0]] == [
        ("a-0.0", ""),
        ("a-1.0", ""),
        ("x-0.0", ENDED),
    ]
    steps = pool.answer(
        pool.answer(pool.unload("sql"), AwaitAdapterUnused, ConditionMet(True)),
        RemoveAdapter,
        Done(),
    )
    assert [each.process_id for each in pool.told[0]] == ["a-0.0"]


def test_what_one_worker_refuses_no_worker_keeps(pool: Pool) -> None:
    steps = pool.answer(
        pool.load("sql", "1"), AddAdapter, AdapterAdded(), AdapterAdded("its rank is 64, above 16")
    )
    assert refusal(steps) == ("cannot be loaded: its rank is 64, above 16", UNFIT)
    pool.answer(steps, RemoveAdapter, Done(), Done())
    assert pool.shown() == {}
    assert pool.kept() == set()
    assert refusal(pool.unload("sql"))[1] == MISSING


@pytest.mark.parametrize(
    ("error", "kind"), [("there is not enough memory", FAILED), (NO_ANSWER, TIMEOUT)]
)
def test_what_one_worker_cannot_have_no_worker_keeps(pool: Pool, error: str, kind: str) -> None:
    steps = pool.answer(pool.load("sql", "1"), AddAdapter, AdapterAdded(), errors=(error,))
    assert refusal(steps) == (f"cannot be loaded: {error}", kind)
    assert [call.call for call in steps.calls] == [RemoveAdapter("1")]


def test_a_worker_that_ends_meanwhile_is_not_missed_unless_there_is_no_other(pool: Pool) -> None:
    steps = pool.answer(pool.load("sql", "1"), AddAdapter, AdapterAdded(), errors=(ENDED,))
    assert steps.publish
    pool.answer(steps, AwaitAdapterShown, ConditionMet(True))
    steps = pool.answer(pool.load("css", "2", "m"), AddAdapter, errors=(ENDED, ENDED))
    assert refusal(steps)[1] == FAILED


def test_nobody_there_to_load_it(pool: Pool) -> None:
    (call,) = pool.load("sql", "1").calls
    steps = pool.adapters.on_result(PoolResult(call.call_id, (), "no worker is there"))
    assert refusal(steps) == ("cannot be loaded: no worker is there", "absent")


def test_names_that_are_taken(pool: Pool) -> None:
    pool.loaded("sql", "1")
    for name, of, error in (
        ("sql", "a", "has already been loaded"),
        ("sql", "b", "has the name of a model"),
        ("a", "a", "has the name of a model"),
        ("c", "a", "has the name of a model"),
    ):
        assert refusal(pool.load(name, "2", "m", of=of)) == (error, INVALID)
    assert pool.kept() == {"1"}
    assert "--enable-lora" in refusal(pool.load("css", "2", "m", of="c"))[0]


def test_one_change_at_a_time_under_a_name(pool: Pool) -> None:
    first = pool.load("sql", "1")
    assert refusal(pool.load("sql", "2", "m"))[1] == CONFLICT
    assert refusal(pool.unload("sql"))[1] == CONFLICT
    other = pool.load("css", "3", "n")
    assert pool.answer(other, AddAdapter, AdapterAdded()).publish
    assert pool.answer(first, AddAdapter, AdapterAdded()).publish
    assert pool.shown() == {"css": "3", "sql": "1"}


def test_one_that_goes_takes_no_requests_and_is_removed_when_none_is_left(pool: Pool) -> None:
    pool.loaded("sql", "1")
    steps = pool.unload("sql")
    assert (steps.publish, steps.answers, pool.shown()) == (True, (), {})
    steps = pool.answer(steps, AwaitAdapterUnused, ConditionMet(True), errors=(ENDED,))
    assert steps.answers == ()
    assert pool.kept() == {"1"}
    assert pool.answer(steps, RemoveAdapter, Done()).answers == done("u")
    assert pool.kept() == set()


@pytest.mark.parametrize("errors", [(), (NO_ANSWER,)])
def test_one_that_is_used_for_too_long_goes_later(pool: Pool, errors: tuple[str, ...]) -> None:
    pool.loaded("sql", "1")
    steps = pool.unload("sql")
    pool.now = 20.0
    assert pool.adapters.tick(pool.now) == Actions()
    assert pool.unload("sql", "v") == Actions()  # it waits with the first
    assert refusal(pool.adapters.tick(30.5))[1] == TIMEOUT
    assert pool.adapters.tick(30.6) == Actions()
    assert pool.shown() == {}
    yes, no = ConditionMet(True), ConditionMet(False)
    values = (yes,) if errors else (yes, no)
    steps = pool.answer(steps, AwaitAdapterUnused, *values, errors=errors)  # they are asked again
    steps = pool.answer(steps, AwaitAdapterUnused, ConditionMet(True))
    assert pool.answer(steps, RemoveAdapter, Done()).answers == done("v")


def test_a_name_is_free_while_the_last_requests_of_its_adapter_go_on(pool: Pool) -> None:
    pool.loaded("sql", "1")
    leaving = pool.unload("sql")
    pool.loaded("sql", "2", "m")
    assert pool.shown() == {"sql": "2"}
    pool.answer(pool.answer(leaving, AwaitAdapterUnused, ConditionMet(True)), RemoveAdapter, Done())
    assert pool.shown() == {"sql": "2"}
    assert pool.kept() == {"2"}


def test_one_in_place_of_another(pool: Pool) -> None:
    pool.loaded("sql", "1")
    steps = pool.loaded("sql", "2", "m", in_place=True)
    assert steps.answers == done("m")
    assert pool.shown() == {"sql": "2"}
    left = pool.answer(steps, AwaitAdapterUnused, ConditionMet(True))
    assert left.calls[0].call == RemoveAdapter("1")
    assert pool.answer(left, RemoveAdapter, Done()).answers == ()
    assert pool.kept() == {"2"}


def test_one_in_place_of_another_that_does_not_come(pool: Pool) -> None:
    pool.loaded("sql", "1")
    steps = pool.load("sql", "2", "m", in_place=True)
    assert refusal(pool.answer(steps, AddAdapter, AdapterAdded("broken")))[1] == UNFIT
    assert pool.shown() == {"sql": "1"}


class TestAnotherCoordinator:
    def test_knows_what_is_served(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        assert pool.restart() == Actions()
        assert pool.shown() == {"sql": "1"}

    def test_is_asked_again_for_what_has_been_done(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        pool.restart()
        steps = pool.load("sql", "1")
        assert (steps.publish, steps.answers) == (True, ())  # frontends may not have seen it
        assert pool.answer(steps, AwaitAdapterShown, ConditionMet(True)).answers == done()
        assert pool.shown() == {"sql": "1"}
        assert pool.kept() == {"1"}

    def test_begins_again_what_has_been_begun(self, pool: Pool) -> None:
        pool.load("sql", "1")
        pool.restart()
        steps = pool.answer(pool.load("sql", "1"), AddAdapter, AdapterAdded())
        assert pool.answer(steps, AwaitAdapterShown, ConditionMet(True)).answers == done()

    def test_may_be_asked_twice(self, pool: Pool) -> None:
        steps = pool.load("sql", "1")
        assert pool.load("sql", "1") == Actions()
        steps = pool.answer(
            pool.answer(steps, AddAdapter, AdapterAdded()), AwaitAdapterShown, ConditionMet(True)
        )
        assert steps.answers == done()
        steps = pool.unload("sql")
        assert pool.unload("sql") == Actions()
        steps = pool.answer(
            pool.answer(steps, AwaitAdapterUnused, ConditionMet(True)), RemoveAdapter, Done()
        )
        assert steps.answers == done("u")

    def test_goes_on_with_what_goes(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        pool.unload("sql")
        steps = pool.restart()
        assert pool.unload("sql") == Actions()  # whoever waits asks again
        steps = pool.answer(steps, AwaitAdapterUnused, ConditionMet(True))
        assert pool.answer(steps, RemoveAdapter, Done()).answers == done("u")

    def test_removes_what_the_one_before_was_about_to_remove(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        pool.answer(pool.unload("sql"), AwaitAdapterUnused, ConditionMet(True))
        steps = pool.answer(pool.restart(), AwaitAdapterUnused, ConditionMet(True))
        pool.answer(steps, RemoveAdapter, Done())
        assert pool.kept() == set()

    def test_an_unload_that_is_over_is_not_done_twice(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        steps = pool.answer(pool.unload("sql"), AwaitAdapterUnused, ConditionMet(True))
        pool.answer(steps, RemoveAdapter, Done())
        assert pool.unload("sql") == Actions(answers=done("u"))
        assert refusal(pool.unload("sql", "v"))[1] == MISSING


class TestAWorkerThatStarts:
    def test_gets_what_has_come_since_it_began(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        pool.load("css", "2", "m")
        assert pool.hello("a-1.0", state=STARTING) == []
        told = pool.hello("a-1.0", "9")
        assert [each.call for _, each in told] == [
            AddAdapter("1"),
            AddAdapter("2"),
            RemoveAdapter("9"),
        ]
        # A worker ignores a call whose id it is already working on.
        assert len({each.call_id for _, each in told}) == 3
        assert {worker_id for worker_id, _ in told} == {"a-1.0"}

    def test_is_told_once(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        assert len(pool.hello("a-1.0", state=ASLEEP)) == 1
        assert pool.hello("a-1.0") == []
        pool.hello("a-2.0")
        assert len(pool.hello("a-1.0")) == 1  # it has been gone meanwhile

    def test_is_not_left_with_what_all_others_remove(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        pool.answer(pool.unload("sql"), AwaitAdapterUnused, ConditionMet(True))
        (told,) = pool.hello("a-1.0", "1")
        assert told[1].call == RemoveAdapter("1")

    def test_of_another_group_gets_nothing(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        assert pool.hello("b-0.0") == []

    def test_has_all(self, pool: Pool) -> None:
        pool.loaded("sql", "1")
        assert pool.hello("a-1.0", "1") == []
