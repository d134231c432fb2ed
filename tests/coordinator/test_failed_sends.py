"""Which messages that could not be sent are worth a warning."""

from itertools import pairwise
from pathlib import Path

import pytest
import zmq

from headrace.coordinator.coordinator_sockets import CoordinatorSockets
from headrace.coordinator.failed_sends import AGAIN_S, PATIENCE_S, FailedSends
from headrace.protocol.sockets import control_endpoint, dealer
from headrace.protocol.to_worker import FrontendGone

LATER = PATIENCE_S + 0.1


def is_there(receiver: str) -> bool:
    return receiver.startswith("live")


def test_a_process_that_ends_is_no_failure() -> None:
    unreachable = FailedSends()
    unreachable.failed("gone-0.0", "Host unreachable", 10.0)
    unreachable.failed("live-0.0", "Host unreachable", 10.0)
    unreachable.reached("live-0.0")
    assert unreachable.warnings(is_there, 10.1) == []
    assert unreachable.warnings(is_there, 10.0 + LATER) == []


def test_a_process_that_is_there_and_cannot_be_reached_is_named_once_a_minute() -> None:
    unreachable = FailedSends()
    told: list[float] = []
    for tenth in range(int(10 * (2.5 * AGAIN_S))):
        now = 100.0 + tenth / 10
        unreachable.failed("live-0.0", "Host unreachable", now)
        lines = unreachable.warnings(is_there, now)
        assert set(lines) <= {"cannot reach live-0.0: Host unreachable"}
        told += [now] * len(lines)
    assert len(told) == 3
    assert told[0] == pytest.approx(100.0 + PATIENCE_S)
    assert all(later - before >= AGAIN_S for before, later in pairwise(told))


def test_the_sockets_note_what_is_not_there(tmp_path: Path) -> None:
    sockets = CoordinatorSockets(tmp_path)
    try:
        assert not sockets.send_to_worker("live-0.0", FrontendGone("frontend-0.0"))
        (line,) = sockets.unreachable.warnings(is_there, float("inf"))
        assert line == f"cannot reach live-0.0: {zmq.strerror(zmq.EHOSTUNREACH)}"
    finally:
        sockets.close()


def test_a_process_that_sends_messages_is_reached(tmp_path: Path) -> None:
    """It connected after the message that it has missed."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = CoordinatorSockets(tmp_path)
    try:
        assert not sockets.send_to_worker("live-0.0", FrontendGone("frontend-0.0"))
        worker = dealer(context, control_endpoint(tmp_path), "live-0.0")
        worker.send(b"hello")
        sockets.wait(10)
        assert sockets.receive() == ("live-0.0", b"hello")
        assert sockets.unreachable.warnings(is_there, float("inf")) == []
    finally:
        sockets.close()
        context.destroy(linger=0)
