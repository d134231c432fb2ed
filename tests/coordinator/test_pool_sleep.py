"""Which groups sleep, who wakes, and who is put to sleep again: lists of events."""

from dataclasses import replace

import pytest

from headrace.coordinator.sleeping import BUSY_S, SleepingGroups
from headrace.protocol.calls import Sleep, WakeUp
from headrace.protocol.state import (
    ASLEEP,
    DRAINING,
    FALLING_ASLEEP,
    READY,
    STARTING,
    WAKING,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from tests.coordinator.test_call_router import IDLE, pool_call, worker

GROUPS = {"a": 4, "b": 4}
SLEEP = Sleep(2, "wait", 7.0)


def sleep(sleeping: SleepingGroups, group: str = "", worker: str = "") -> None:
    sleeping.on_sleep(SLEEP, pool_call(SLEEP, group, worker))


def wake_up(sleeping: SleepingGroups, group: str = "", worker: str = "") -> None:
    sleeping.on_wake_up(WakeUp(), pool_call(WakeUp(), group, worker))


def test_a_worker_that_is_started_while_its_group_sleeps_sleeps_too() -> None:
    sleeping = SleepingGroups(GROUPS)
    assert sleeping.on_started(worker("a-0.1")) == []
    sleep(sleeping, group="a")
    ((worker_id, call),) = sleeping.on_started(worker("a-0.1"))
    assert (worker_id, call.call) == ("a-0.1", SLEEP)
    assert sleeping.on_started(worker("b-0.1")) == []
    wake_up(sleeping)
    assert sleeping.on_started(worker("a-0.2")) == []


def test_a_single_worker_is_remembered_by_its_place() -> None:
    sleeping = SleepingGroups(GROUPS)
    sleep(sleeping, worker="a-0.3")
    assert sleeping.on_started(worker("a-0.4"))
    assert sleeping.on_started(worker("a-1.1")) == []
    wake_up(sleeping, worker="a-0")
    assert sleeping.on_started(worker("a-0.5")) == []
    sleep(sleeping, worker="a-1")
    sleep(sleeping, worker="b-0")
    wake_up(sleeping, group="a")
    assert sleeping.on_started(worker("a-1.2")) == []
    assert sleeping.on_started(worker("b-0.1"))


def test_waking_one_is_no_wish_for_its_group() -> None:
    sleeping = SleepingGroups(GROUPS)
    sleep(sleeping)
    wake_up(sleeping, worker="a-1")
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
    states: list[WorkerStatus], woken: str | None
) -> None:
    pool = [worker(f"a-{number}.0", state) for number, state in enumerate(states)]
    messages = SleepingGroups(GROUPS).on_wake_request("a", [*pool, worker("b-0.0", ASLEEP)])
    assert [worker_id for worker_id, _ in messages] == ([] if woken is None else [woken])
    assert all(message.call == WakeUp() for _, message in messages)


def test_requests_end_the_wish_that_a_group_sleeps() -> None:
    sleeping = SleepingGroups(GROUPS)
    sleep(sleeping)
    sleeping.on_wake_request("a", [worker("a-0.0", ASLEEP)])
    assert sleeping.on_started(worker("a-1.1")) == []


def busy(worker_id: str, running: int = 5, waiting: int = 0) -> WorkerState:
    return replace(worker(worker_id), load=WorkerLoad(running, waiting, 0.0, 9, 0.0))


def woken(sleeping: SleepingGroups, *pool: WorkerState) -> list[str]:
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
    assert woken(SleepingGroups(GROUPS), *pool) == expected
    assert woken(SleepingGroups(GROUPS, wakes=False), *pool) == []


def test_a_moment_of_work_wakes_nobody() -> None:
    sleeping = SleepingGroups(GROUPS)
    pool = [busy("a-0.0"), worker("a-1.0", ASLEEP)]
    for second in range(5):
        assert sleeping.tick(pool, float(second)) == []
        assert sleeping.tick([replace(pool[0], load=IDLE), pool[1]], second + 0.5) == []


def test_whom_an_operator_wants_to_sleep_is_not_woken_for_work() -> None:
    sleeping = SleepingGroups(GROUPS)
    sleep(sleeping, worker="a-1")
    pool = [busy("a-0.0"), worker("a-1.0", ASLEEP), worker("a-2.0", ASLEEP)]
    assert woken(sleeping, *pool) == ["a-2.0"]
    assert woken(sleeping, *pool[:2]) == []
    # but rather than nobody
    assert [name for name, _ in sleeping.on_wake_request("a", pool[1:2])] == ["a-1.0"]
