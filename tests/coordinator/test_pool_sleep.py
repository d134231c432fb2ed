"""Which groups sleep, who wakes, and who is put to sleep again: lists of events."""

from dataclasses import replace

import pytest

from headrace.coordinator.sleeping import BUSY_S, Sleeping
from headrace.protocol.state import (
    ASLEEP,
    DRAINING,
    FALLING_ASLEEP,
    READY,
    STARTING,
    WAKING,
    WorkerLoad,
    WorkerState,
)
from tests.coordinator.test_calls import IDLE, pool_call, worker

GROUPS = {"a": 4, "b": 4}


def test_a_worker_that_is_started_while_its_group_sleeps_sleeps_too() -> None:
    sleeping = Sleeping(GROUPS)
    assert sleeping.on_started(worker("a-0.1")) == []
    sleeping.on_call(pool_call("sleep", group="a"))
    ((worker_id, call),) = sleeping.on_started(worker("a-0.1"))
    assert (worker_id, call.method) == ("a-0.1", "sleep")
    assert sleeping.on_started(worker("b-0.1")) == []
    sleeping.on_call(pool_call("wake_up"))
    assert sleeping.on_started(worker("a-0.2")) == []


def test_a_single_worker_is_remembered_by_its_place() -> None:
    sleeping = Sleeping(GROUPS)
    sleeping.on_call(pool_call("sleep", worker="a-0.3"))
    assert sleeping.on_started(worker("a-0.4"))
    assert sleeping.on_started(worker("a-1.1")) == []
    sleeping.on_call(pool_call("wake_up", worker="a-0"))
    assert sleeping.on_started(worker("a-0.5")) == []
    sleeping.on_call(pool_call("sleep", worker="a-1"))
    sleeping.on_call(pool_call("sleep", worker="b-0"))
    sleeping.on_call(pool_call("wake_up", group="a"))
    assert sleeping.on_started(worker("a-1.2")) == []
    assert sleeping.on_started(worker("b-0.1"))


def test_waking_one_is_no_wish_for_its_group() -> None:
    sleeping = Sleeping(GROUPS)
    sleeping.on_call(pool_call("sleep"))
    sleeping.on_call(pool_call("wake_up", worker="a-1"))
    assert sleeping.on_started(worker("a-0.2"))


@pytest.mark.parametrize(
    ("states", "woken"),
    [
        ([ASLEEP, ASLEEP], "a-0.0"),
        ([FALLING_ASLEEP, ASLEEP], "a-1.0"),
        ([DRAINING, ASLEEP], "a-1.0"),
        ([FALLING_ASLEEP, FALLING_ASLEEP], None),
        ([READY, ASLEEP], None),
        ([STARTING, ASLEEP], None),
        ([WAKING, ASLEEP], None),
        ([], None),
    ],
)
def test_one_worker_is_woken_if_none_is_awake_or_about_to_be(
    states: list[str], woken: str | None
) -> None:
    pool = [worker(f"a-{number}.0", state) for number, state in enumerate(states)]
    messages = Sleeping(GROUPS).on_wanted("a", [*pool, worker("b-0.0", ASLEEP)])
    assert [worker_id for worker_id, _ in messages] == ([] if woken is None else [woken])


def test_requests_end_the_wish_that_a_group_sleeps() -> None:
    sleeping = Sleeping(GROUPS)
    sleeping.on_call(pool_call("sleep"))
    sleeping.on_wanted("a", [worker("a-0.0", ASLEEP)])
    assert sleeping.on_started(worker("a-1.1")) == []


def busy(worker_id: str, running: int = 5, waiting: int = 0) -> WorkerState:
    return replace(worker(worker_id), load=WorkerLoad(running, waiting, 0.0, 9, 0.0))


def woken(sleeping: Sleeping, *pool: WorkerState) -> list[str]:
    """Whom it wakes of workers that stay so for long enough."""
    assert sleeping.tick(pool, 0.0) == []
    assert sleeping.tick(pool, BUSY_S - 0.1) == []
    return [worker_id for worker_id, _ in sleeping.tick(pool, BUSY_S)]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ([busy("a-0.0"), worker("a-1.0", ASLEEP), worker("a-2.0", ASLEEP)], ["a-1.0"]),
        ([busy("a-0.0", running=1, waiting=1), worker("a-1.0", ASLEEP)], ["a-1.0"]),
        ([busy("a-0.0", running=4), worker("a-1.0", ASLEEP)], []),
        ([busy("a-0.0"), busy("a-1.0", running=0), worker("a-2.0", ASLEEP)], []),
        ([busy("a-0.0"), worker("a-1.0", WAKING), worker("a-2.0", ASLEEP)], []),
        ([busy("a-0.0"), worker("a-1.0", STARTING), worker("a-2.0", ASLEEP)], []),
        ([busy("a-0.0"), worker("b-0.0", ASLEEP)], []),
        ([worker("a-0.0", ASLEEP)], []),
        ([], []),
    ],
)
def test_another_is_woken_when_those_that_are_awake_are_busy(
    pool: list[WorkerState], expected: list[str]
) -> None:
    assert woken(Sleeping(GROUPS), *pool) == expected
    assert woken(Sleeping(GROUPS, wakes=False), *pool) == []


def test_a_moment_of_work_wakes_nobody() -> None:
    sleeping = Sleeping(GROUPS)
    pool = [busy("a-0.0"), worker("a-1.0", ASLEEP)]
    for second in range(5):
        assert sleeping.tick(pool, float(second)) == []
        assert sleeping.tick([replace(pool[0], load=IDLE), pool[1]], second + 0.5) == []


def test_whom_an_operator_wants_to_sleep_is_not_woken_for_work() -> None:
    sleeping = Sleeping(GROUPS)
    sleeping.on_call(pool_call("sleep", worker="a-1"))
    pool = [busy("a-0.0"), worker("a-1.0", ASLEEP), worker("a-2.0", ASLEEP)]
    assert woken(sleeping, *pool) == ["a-2.0"]
    assert woken(sleeping, *pool[:2]) == []
    # but rather than nobody
    assert [name for name, _ in sleeping.on_wanted("a", pool[1:2])] == ["a-1.0"]
