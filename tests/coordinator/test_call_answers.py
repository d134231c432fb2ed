"""Calls to the whole pool, by a list of events."""

from headrace.coordinator.calls import Calls
from headrace.protocol.state import READY, WorkerLoad, WorkerState
from headrace.protocol.to_coordinator import CallResult, PoolCall


def worker(name: str) -> WorkerState:
    group = name.rpartition("-")[0]
    return WorkerState(name, group, 1, READY, "", WorkerLoad(0, 0, 0.0, 0, 0.0))


def test_answers_come_in_the_order_of_places() -> None:
    calls, names = Calls(), [f"chat-{number}.0" for number in (10, 2, 0)] + ["a-b-1.7"]
    call = PoolCall("c", "frontend-0.0", "ping", "{}", "", "", 5.0)
    messages, _ = calls.on_call(call, map(worker, names), 0.0)
    assert {name for name, _ in messages} == set(names)
    results = []
    for name in names:
        results += calls.on_result(CallResult("c", name, "null"), 1.0)
    ((frontend, result),) = results
    assert frontend == "frontend-0.0"
    told = [each.worker_id for each in result.answers]
    assert told == ["a-b-1.7", "chat-0.0", "chat-2.0", "chat-10.0"]


def test_a_call_to_all_frontends() -> None:
    calls = Calls()
    call = PoolCall("c", "frontend-0.0", "abort_requests", "{}", "", "", 5.0)
    messages = calls.on_frontend_call(call, ["frontend-1.0", "frontend-0.0", "frontend-2.0"], 0.0)
    assert [name for name, _ in messages] == ["frontend-0.0", "frontend-1.0", "frontend-2.0"]
    assert calls.on_frontend_call(call, ["frontend-0.0"], 0.0) == []
    assert calls.on_result(CallResult("c", "frontend-1.0", "[]"), 1.0) == []
    assert calls.on_gone("frontend-0.0", 1.0) == []
    ((_, result),) = calls.tick(6.0)
    assert [each.value for each in result.answers] == ["", "[]", ""]
    assert [bool(each.error) for each in result.answers] == [True, False, True]
