"""The sockets of a worker: requests from and outputs to frontends, and control."""

import logging
from pathlib import Path
from typing import Any

import zmq

from headrace.protocol import sockets
from headrace.protocol.to_coordinator import CONTROL, ControlMessage

log = logging.getLogger("headrace.worker")

# How long the process waits for its last messages to be sent.
LINGER_MS = 1000


class WorkerSockets:
    """Bound and connected from the start; nothing here waits. endpoint: where requests arrive."""

    def __init__(self, run_dir: Path, worker_id: str) -> None:
        context: zmq.Context[Any] = zmq.Context.instance()
        self.endpoint = sockets.requests_endpoint(run_dir, worker_id)
        self._requests = sockets.router(context, self.endpoint)
        self._control = sockets.dealer(context, sockets.control_endpoint(run_dir), worker_id)

    def register(self, poller: zmq.Poller) -> None:
        """Have a poller return when a message arrives."""
        for socket in (self._requests, self._control):
            poller.register(socket, zmq.POLLIN)

    def send_to_coordinator(self, message: ControlMessage) -> None:
        """Send a message; while the coordinator is away, what exceeds the queue is dropped."""
        try:
            self._control.send(CONTROL.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            log.debug("the coordinator does not read")

    def send_to_frontend(self, frontend: bytes, data: bytes) -> bool:
        """Send a message; return false if the frontend cannot be reached."""
        try:
            self._requests.send_multipart([frontend, data], zmq.NOBLOCK)
        except zmq.Again:
            # It does not read. The gap in the numbers will tell it that a message was lost.
            return True
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def receive_control(self) -> bytes | None:
        """Return the next message of the coordinator, if one has arrived."""
        frames = _receive(self._control)
        return None if frames is None else frames[-1]

    def receive_request(self) -> tuple[bytes, bytes] | None:
        """Return the next message of a frontend, with the frontend, if one has arrived."""
        frames = _receive(self._requests)
        return None if frames is None else (frames[0], frames[-1])

    def close(self) -> None:
        """Close them when the last messages have been sent, or cannot be sent in time."""
        for socket in (self._control, self._requests):
            socket.close(linger=LINGER_MS)


def _receive(socket: Any) -> list[bytes] | None:
    try:
        frames: list[bytes] = socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return frames
