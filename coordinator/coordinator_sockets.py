"""The sockets of the coordinator: control of all processes, and the published pool state."""

import logging
import time
from pathlib import Path
from typing import Any

import zmq

from headrace.coordinator.failed_sends import FailedSends
from headrace.coordinator.registry import LauncherOrder
from headrace.protocol import sockets, to_frontend, to_launcher, to_worker
from headrace.protocol.state import STATE, PoolState

log = logging.getLogger("headrace.coordinator")

LAUNCHER = "launcher"


class CoordinatorSockets:
    """Bound from the start. A process that cannot be reached gets no message.

    unreachable: those processes, of which most are just ending.
    """

    def __init__(self, run_dir: Path) -> None:
        self.unreachable = FailedSends()
        context: zmq.Context[Any] = zmq.Context.instance()
        self._control = sockets.router(context, sockets.control_endpoint(run_dir))
        self._publisher = sockets.publisher(context, sockets.state_endpoint(run_dir))

    def wait(self, timeout_s: float) -> None:
        """Return when a message has arrived, or the time is over."""
        self._control.poll(timeout_s * 1000)

    def receive(self) -> tuple[str, bytes] | None:
        """Return the next message, with its sender, if one has arrived."""
        try:
            frames = self._control.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        sender = frames[0].decode(errors="replace")
        self.unreachable.reached(sender)
        return sender, frames[-1]

    def publish(self, state: PoolState) -> None:
        self._publisher.send(STATE.encode(state))

    def send_to_worker(self, worker_id: str, message: to_worker.ControlMessage) -> bool:
        """Send a message; return false if the worker cannot be reached."""
        return self._send(worker_id, to_worker.CONTROL.encode(message))

    def send_to_frontend(self, frontend_id: str, message: to_frontend.ControlMessage) -> None:
        self._send(frontend_id, to_frontend.CONTROL.encode(message))

    def send_to_launcher(self, order: LauncherOrder) -> None:
        self._send(LAUNCHER, to_launcher.CONTROL.encode(order))

    def close(self) -> None:
        self._control.close()
        self._publisher.close()

    def _send(self, receiver: str, data: bytes) -> bool:
        try:
            self._control.send_multipart([receiver.encode(), data], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.debug("cannot reach %s now: %s", receiver, error)
            self.unreachable.failed(receiver, str(error), time.monotonic())
            return False
        self.unreachable.reached(receiver)
        return True
