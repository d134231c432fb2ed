"""Calls to the whole pool, and who sleeps and wakes: lists of events, no sockets."""

import json

import pytest

from headrace.coordinator.calls import ENDED, NO_ANSWER, Calls
from headrace.protocol.state import (
    ASLEEP,
    DRAINING,
    READY,
    STALLED,
    WAKING,
    WorkerLoad,
    WorkerState,
)
from headrace.protocol.to_coordinator import CallResult, PoolCall
from headrace.protocol.to_frontend import PoolResult, WorkerAnswer
from headrace.protocol.to_worker import Call

IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)


def worker(worker_id: str, state: str = READY) -> WorkerState:
    group = worker_id.partition("-")[0]
    return WorkerState(worker_id, group, 1, state, f"ipc://{worker_id}", IDLE)


POOL = [worker("a-0.0"), worker("a-1.2"), worker("b-0.0")]


def pool_call(
    method: str = "sleep", group: str = "", worker: str = "", name: str = "c"
) -> PoolCall:
    return PoolCall(name, "frontend-0.0", method, "{}", group, worker, 5.0)


def test_all_workers_are_called_and_their_answers_put_together() -> None:
    calls = Calls()
    messages, results = calls.on_call(pool_call(), POOL, 0.0)
    assert results == []
    assert messages == [(each.worker_id, Call("c", "sleep", "{}", False)) for each in POOL]
    assert calls.on_result(CallResult("c", "b-0.0", "1"), 1.0) == []
    assert calls.on_result(CallResult("c", "b-0.0", "1"), 1.0) == []  # the same again
    assert calls.on_result(CallResult("c", "a-1.2", "", "broken"), 2.0) == []
    (result,) = calls.on_result(CallResult("c", "a-0.0", "2"), 3.0)
    assert result == (
        "frontend-0.0",
        PoolResult(
            "c",
            (
                WorkerAnswer("a-0.0", "2", "", 3.0),
                WorkerAnswer("a-1.2", "", "broken", 2.0),
                WorkerAnswer("b-0.0", "1", "", 1.0),
            ),
        ),
    )
    assert calls.on_result(CallResult("c", "a-0.0", "2"), 3.0) == []


@pytest.mark.parametrize(
    ("group", "name", "meant"),
    [
        ("a", "", ["a-0.0", "a-1.2"]),
        ("", "a-1", ["a-1.2"]),
        ("", "a-1.2", ["a-1.2"]),
        ("a", "a-1.2", ["a-1.2"]),
        ("b", "a-1.2", []),
        ("", "a-1.1", []),
        ("c", "", []),
    ],
)
def test_some_workers_are_meant(group: str, name: str, meant: list[str]) -> None:
    messages, results = Calls().on_call(pool_call(group=group, worker=name), POOL, 0.0)
    assert [worker_id for worker_id, _ in messages] == meant
    assert bool(results) == (not meant)
    assert all(result.error for _, result in results)


def test_workers_are_told_whether_others_could_take_their_requests() -> None:
    messages, _ = Calls().on_call(pool_call(worker="a-0"), POOL, 0.0)
    assert [call.others_are_awake for _, call in messages] == [True]
    asleep = [worker("a-0.0"), worker("a-1.2", ASLEEP), worker("b-0.0")]
    messages, _ = Calls().on_call(pool_call(worker="a-0"), asleep, 0.0)
    assert [call.others_are_awake for _, call in messages] == [False]


def test_who_ends_or_is_late_has_failed() -> None:
    calls = Calls()
    calls.on_call(pool_call(), POOL, 10.0)
    assert calls.on_gone("a-0.0", 11.0) == []
    assert calls.on_gone("stranger", 11.0) == []
    calls.on_result(CallResult("c", "b-0.0", "1"), 12.0)
    assert calls.tick(15.0) == []
    ((_, result),) = calls.tick(15.1)
    assert [each.error for each in result.answers] == [ENDED, NO_ANSWER, ""]
    assert calls.tick(100.0) == []


def test_a_call_that_is_repeated_is_made_once() -> None:
    calls = Calls()
    calls.on_call(pool_call(group="b"), POOL, 0.0)
    assert calls.on_call(pool_call(group="b"), POOL, 1.0) == ([], [])
    assert len(calls.on_result(CallResult("c", "b-0.0", "1"), 2.0)) == 1


def test_states_are_told_without_asking_anybody() -> None:
    pool = [worker("a-0.0", ASLEEP), worker("a-1.0", WAKING)]
    messages, ((frontend, result),) = Calls().on_call(pool_call("state"), pool, 0.0)
    assert messages == []
    assert frontend == "frontend-0.0"
    states = [json.loads(each.value)["state"] for each in result.answers]
    assert states == [ASLEEP, WAKING]


def test_workers_that_leave_in_good_order_are_no_failure() -> None:
    leaving = [worker("a-0.0", DRAINING), worker("a-1.2"), worker("b-0.0", STALLED)]
    calls = Calls()
    messages, _ = calls.on_call(pool_call(), leaving, 0.0)
    assert [worker_id for worker_id, _ in messages] == ["a-1.2"]
    ((_, result),) = calls.on_gone("a-1.2", 1.0, has_left=True)
    assert (result.answers, result.error) == ((), "")
    calls.on_call(pool_call(name="d"), POOL, 0.0)
    calls.on_gone("a-0.0", 1.0, has_left=True)
    calls.on_result(CallResult("d", "b-0.0", "1"), 1.0)
    ((_, result),) = calls.on_gone("a-1.2", 1.0)
    assert [(each.worker_id, each.error) for each in result.answers] == [
        ("a-1.2", ENDED),
        ("b-0.0", ""),
    ]
