"""Calls to the whole pool, and who sleeps and wakes: lists of events, no sockets."""

import pytest

from headrace.coordinator.actions import Actions
from headrace.coordinator.call_router import ENDED, NO_ANSWER, CallRouter, report_activity
from headrace.protocol.call_results import ScalingState, WorkerActivity, WorkerSleep
from headrace.protocol.calls import (
    ABSENT,
    MISSING,
    AnyCall,
    CallTarget,
    GetActivity,
    GetScaling,
    Ping,
    Sleep,
)
from headrace.protocol.state import (
    ASLEEP,
    DRAINING,
    READY,
    STALLED,
    WAKING,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from headrace.protocol.to_coordinator import CallResult, PoolCall
from headrace.protocol.to_frontend import CallAnswer, PoolResult
from headrace.protocol.to_worker import WorkerCall

IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)


def worker(worker_id: str, state: WorkerStatus = READY) -> WorkerState:
    group = worker_id.partition("-")[0]
    return WorkerState(worker_id, group, 1, state, f"ipc://{worker_id}", IDLE)


POOL = [worker("a-0.0"), worker("a-1.2"), worker("b-0.0")]


SLEEP = Sleep()
SLEPT, WOKEN = WorkerSleep(ASLEEP), WorkerSleep(READY)


def pool_call(
    call: AnyCall = SLEEP, group: str = "", worker: str = "", name: str = "c"
) -> PoolCall:
    return PoolCall(name, "frontend-0.0", call, CallTarget(group, worker), 5.0)


def test_all_workers_are_called_and_their_answers_put_together() -> None:
    calls = CallRouter()
    actions = calls.on_call(pool_call(), 0.0, POOL)
    messages = tuple((each.worker_id, WorkerCall("c", SLEEP)) for each in POOL)
    assert actions == Actions(to_workers=messages)
    assert calls.on_result(CallResult("c", "b-0.0", SLEPT), 1.0) == []
    assert calls.on_result(CallResult("c", "b-0.0", SLEPT), 1.0) == []  # the same again
    assert calls.on_result(CallResult("c", "a-1.2", None, "broken"), 2.0) == []
    (result,) = calls.on_result(CallResult("c", "a-0.0", WOKEN), 3.0)
    assert result == (
        "frontend-0.0",
        PoolResult(
            "c",
            (
                CallAnswer("a-0.0", WOKEN, "", 3.0),
                CallAnswer("a-1.2", None, "broken", 2.0),
                CallAnswer("b-0.0", SLEPT, "", 1.0),
            ),
        ),
    )
    assert calls.on_result(CallResult("c", "a-0.0", WOKEN), 3.0) == []


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
    actions = CallRouter().on_call(pool_call(group=group, worker=name), 0.0, POOL)
    assert [worker_id for worker_id, _ in actions.to_workers] == meant
    assert bool(actions.answers) == (not meant)
    assert all(result.error for _, result in actions.answers)


def test_workers_are_told_whether_others_could_take_their_requests() -> None:
    actions = CallRouter().on_call(pool_call(worker="a-0"), 0.0, POOL)
    assert [each.call for _, each in actions.to_workers] == [Sleep(others_are_awake=True)]
    asleep = [worker("a-0.0"), worker("a-1.2", ASLEEP), worker("b-0.0")]
    actions = CallRouter().on_call(pool_call(worker="a-0"), 0.0, asleep)
    assert [each.call for _, each in actions.to_workers] == [Sleep(others_are_awake=False)]
    actions = CallRouter().on_call(pool_call(Ping(), worker="a-0"), 0.0, POOL)
    assert [each.call for _, each in actions.to_workers] == [Ping()]


def test_who_ends_or_is_late_has_failed() -> None:
    calls = CallRouter()
    calls.on_call(pool_call(), 10.0, POOL)
    assert calls.on_exit("a-0.0", 11.0) == []
    assert calls.on_exit("stranger", 11.0) == []
    calls.on_result(CallResult("c", "b-0.0", SLEPT), 12.0)
    assert calls.tick(15.0) == []
    ((_, result),) = calls.tick(15.1)
    assert [each.error for each in result.answers] == [ENDED, NO_ANSWER, ""]
    assert calls.tick(100.0) == []


def test_a_call_that_is_repeated_is_made_once() -> None:
    calls = CallRouter()
    calls.on_call(pool_call(group="b"), 0.0, POOL)
    assert calls.on_call(pool_call(group="b"), 1.0, POOL) == Actions()
    assert len(calls.on_result(CallResult("c", "b-0.0", SLEPT), 2.0)) == 1


def test_states_are_told_without_asking_anybody() -> None:
    pool = [worker("a-0.0", ASLEEP), worker("a-1.0", WAKING)]
    actions = report_activity(pool_call(GetActivity()), pool)
    ((frontend, result),) = actions.answers
    assert actions == Actions(answers=actions.answers)
    assert frontend == "frontend-0.0"
    assert [each.value for each in result.answers] == [
        WorkerActivity(ASLEEP, False),
        WorkerActivity(WAKING, False),
    ]


def test_states_of_workers_that_there_are_not() -> None:
    for group in ("", "b"):
        call = pool_call(GetActivity(), group, "c-0" if group == "" else "a-0")
        ((_, result),) = report_activity(call, POOL).answers
        assert (result.error, result.kind) == ("there is no such worker", MISSING)
        assert result.answers == ()


@pytest.mark.parametrize("state", [DRAINING, STALLED])
def test_worker_that_ends_is_no_unknown_one(state: WorkerStatus) -> None:
    pool = [worker("a-0.0", state)]
    for call in (pool_call(GetActivity(), worker="a-0"), pool_call(worker="a-0.0")):
        ((_, result),) = (
            CallRouter().on_call(call, 0.0, pool).answers
            if call.call is SLEEP
            else (report_activity(call, pool).answers)
        )
        assert (result.error, result.kind) == ("this worker is ending", ABSENT)
    ((_, result),) = CallRouter().on_call(pool_call(), 0.0, pool).answers
    assert (result.error, result.kind) == ("no worker is running", ABSENT)


def test_a_slot_to_be_filled_is_no_unknown_worker() -> None:
    for call in (pool_call(GetActivity(), worker="a-7"), pool_call(worker="a-7")):
        for slots, kind in ((["a-7"], ABSENT), (["a-0"], MISSING)):
            ((_, result),) = (
                CallRouter().on_call(call, 0.0, POOL, slots=slots).answers
                if call.call is SLEEP
                else report_activity(call, POOL, slots).answers
            )
            assert result.kind == kind
    ((_, result),) = report_activity(pool_call(GetActivity(), "b", "a-7"), POOL, ["a-7"]).answers
    assert result.kind == MISSING


def test_the_coordinator_answers_calls_of_its_own() -> None:
    router = CallRouter()

    def on_scaling(call: GetScaling, message: PoolCall, now: float) -> Actions:
        result = PoolResult(message.call_id, (), value=ScalingState(now > 1.0))
        return Actions(answers=((message.frontend_id, result),))

    router.add_handler(GetScaling, on_scaling)
    assert router.handled == {GetScaling}
    ((_, result),) = router.on_call(pool_call(GetScaling()), 2.0, POOL).answers
    assert result.value == ScalingState(True)


def test_an_observer_sees_calls_of_its_class_before_workers_do() -> None:
    router, seen = CallRouter(), []
    router.add_observer(Sleep, lambda call, message: seen.append((call, message.target)))
    router.on_call(pool_call(group="c"), 0.0, POOL)  # also one that no worker gets
    router.on_call(pool_call(Ping(), name="d"), 0.0, POOL)
    assert seen == [(SLEEP, CallTarget("c"))]


def test_workers_that_leave_in_good_order_are_no_failure() -> None:
    leaving = [worker("a-0.0", DRAINING), worker("a-1.2"), worker("b-0.0", STALLED)]
    calls = CallRouter()
    actions = calls.on_call(pool_call(), 0.0, leaving)
    assert [worker_id for worker_id, _ in actions.to_workers] == ["a-1.2"]
    ((_, result),) = calls.on_exit("a-1.2", 1.0, has_drained=True)
    assert (result.answers, result.error) == ((), "")
    calls.on_call(pool_call(name="d"), 0.0, POOL)
    calls.on_exit("a-0.0", 1.0, has_drained=True)
    calls.on_result(CallResult("d", "b-0.0", SLEPT), 1.0)
    ((_, result),) = calls.on_exit("a-1.2", 1.0)
    assert [(each.process_id, each.error) for each in result.answers] == [
        ("a-1.2", ENDED),
        ("b-0.0", ""),
    ]
