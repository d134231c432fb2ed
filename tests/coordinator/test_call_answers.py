"""Calls to the whole pool, by a list of events."""

from headrace.coordinator.actions import Actions
from headrace.coordinator.call_router import CallRouter
from headrace.protocol.call_results import AbortedNames, Pong
from headrace.protocol.calls import AbortRequests, CallTarget, Ping
from headrace.protocol.state import READY, WorkerLoad, WorkerState
from headrace.protocol.to_coordinator import CallResult, PoolCall


def worker(name: str) -> WorkerState:
    group = name.rpartition("-")[0]
    return WorkerState(name, group, 1, READY, "", WorkerLoad(0, 0, 0.0, 0, 0.0))


def test_answers_come_in_the_order_of_places() -> None:
    calls, names = CallRouter(), [f"chat-{number}.0" for number in (10, 2, 0)] + ["a-b-1.7"]
    call = PoolCall("c", "frontend-0.0", Ping(), CallTarget(), 5.0)
    actions = calls.on_call(call, 0.0, map(worker, names))
    assert {name for name, _ in actions.to_workers} == set(names)
    results = []
    for name in names:
        results += calls.on_result(CallResult("c", name, Pong()), 1.0)
    ((frontend, result),) = results
    assert frontend == "frontend-0.0"
    told = [each.process_id for each in result.answers]
    assert told == ["a-b-1.7", "chat-0.0", "chat-2.0", "chat-10.0"]


def test_a_call_to_all_frontends() -> None:
    calls = CallRouter()
    call = PoolCall("c", "frontend-0.0", AbortRequests(None), CallTarget(), 5.0)
    names = ["frontend-1.0", "frontend-0.0", "frontend-2.0"]
    actions = calls.on_call(call, 0.0, [worker("a-0.0")], names)
    assert [name for name, _ in actions.to_frontends] == sorted(names)
    assert actions.to_workers == ()
    assert calls.on_call(call, 0.0, [], ["frontend-0.0"]) == Actions()
    none = AbortedNames(())
    assert calls.on_result(CallResult("c", "frontend-1.0", none), 1.0) == []
    assert calls.on_exit("frontend-0.0", 1.0) == []
    ((_, result),) = calls.tick(6.0)
    assert [each.value for each in result.answers] == [None, none, None]
    assert [bool(each.error) for each in result.answers] == [True, False, True]
