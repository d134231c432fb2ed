"""Calls that wait for a group's first worker."""

from headrace.coordinator.held_calls import NO_WORKER, HeldCalls
from headrace.protocol.calls import TIMEOUT, CallTarget, LoadAdapter
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import PoolResult

CALL = PoolCall("c", "frontend-0.0", LoadAdapter("a", "1f", "a"), CallTarget("g"), 10.0)


def test_a_call_is_tried_again_until_it_is_released() -> None:
    held = HeldCalls()
    held.hold(CALL, 0.0)
    assert held.retry(1.0) == ([CALL], [])
    assert held.retry(2.0) == ([CALL], [])
    held.release(CALL)
    assert held.retry(3.0) == ([], [])


def test_one_that_waits_for_too_long_is_answered_once() -> None:
    held = HeldCalls()
    held.hold(CALL, 0.0)
    held.hold(CALL, 9.0)  # it is held again, not anew
    answer = ("frontend-0.0", PoolResult("c", (), NO_WORKER, TIMEOUT))
    assert held.retry(10.0) == ([], [answer])
    assert held.retry(11.0) == ([], [])
