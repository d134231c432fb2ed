"""Calls that wait for a group's first worker."""

from headrace.coordinator.held_calls import NOBODY, HeldCalls
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import TIMEOUT, PoolResult

CALL = PoolCall("c", "frontend-0.0", "load_adapter", "{}", "g", "", 10.0)


def test_a_call_is_tried_again_until_it_is_released() -> None:
    held = HeldCalls()
    held.hold(CALL, 0.0)
    assert held.take(1.0) == ([CALL], [])
    assert held.take(2.0) == ([CALL], [])
    held.release(CALL)
    assert held.take(3.0) == ([], [])


def test_one_that_waits_for_too_long_is_answered_once() -> None:
    held = HeldCalls()
    held.hold(CALL, 0.0)
    held.hold(CALL, 9.0)  # it is held again, not anew
    answer = ("frontend-0.0", PoolResult("c", (), NOBODY, TIMEOUT))
    assert held.take(10.0) == ([], [answer])
    assert held.take(11.0) == ([], [])
