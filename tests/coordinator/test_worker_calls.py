"""Calls to workers that cannot be reached at once."""

from headrace.coordinator.worker_calls import WorkerCalls
from headrace.protocol.calls import Ping
from headrace.protocol.to_worker import WorkerCall


class Lines:
    """reachable: the workers that get what is sent."""

    def __init__(self) -> None:
        self.reachable: set[str] = set()
        self.sent: list[tuple[str, str]] = []
        self.calls = WorkerCalls(self._send)

    def _send(self, worker_id: str, call: WorkerCall) -> bool:
        if worker_id in self.reachable:
            self.sent.append((worker_id, call.call_id))
        return worker_id in self.reachable


def test_a_call_is_sent_once_as_soon_as_its_worker_can_be_reached() -> None:
    lines = Lines()
    lines.calls.send([("a", WorkerCall("1", Ping())), ("b", WorkerCall("2", Ping()))])
    lines.reachable = {"a"}
    lines.calls.resend({"a", "b"})
    assert lines.sent == [("a", "1")]
    lines.reachable = {"a", "b"}
    lines.calls.resend({"a", "b"})
    lines.calls.resend({"a", "b"})
    assert lines.sent == [("a", "1"), ("b", "2")]


def test_a_call_to_a_worker_that_is_gone_is_dropped() -> None:
    lines = Lines()
    lines.calls.send([("a", WorkerCall("1", Ping()))])
    lines.calls.resend({"b"})
    lines.reachable = {"a"}
    lines.calls.resend({"a", "b"})
    assert lines.sent == []
