"""Send calls to workers, and again to those that could not be reached."""

from collections.abc import Callable, Collection, Iterable

from headrace.coordinator.actions import WorkerMessage
from headrace.protocol.to_worker import WorkerCall


class WorkerCalls:
    """The calls that workers have not got yet. send: returns false if a worker cannot be reached:
    it has just been started, or has not found a new coordinator yet."""

    def __init__(self, send: Callable[[str, WorkerCall], bool]) -> None:
        self._send = send
        self._unsent: list[WorkerMessage] = []

    def send(self, calls: Iterable[WorkerMessage]) -> None:
        """Send calls; keep those that cannot be sent."""
        for worker_id, call in calls:
            if not self._send(worker_id, call):
                self._unsent.append((worker_id, call))

    def resend(self, present: Collection[str]) -> None:
        """Send what could not be sent, because a worker has greeted. present: the ids of all
        workers; calls to others are dropped."""
        again, self._unsent = self._unsent, []
        self.send(each for each in again if each[0] in present)
