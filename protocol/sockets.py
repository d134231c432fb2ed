"""Where the sockets of a pool are, and the options that each kind needs.

All are ipc in the run directory, which only its owner can enter.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from headrace.protocol.codec import MAX_MESSAGE_BYTES

# Messages that may wait for a peer that reads slowly. A step's outputs are one message per
# frontend, so this is minutes of a frontend that reads nothing; after that the messages are lost,
# and their numbers tell the frontend so.
HIGH_WATER_MARK = 10_000

# sun_path holds 108 bytes with the closing NUL.
MAX_PATH_BYTES = 107


def control_endpoint(run_dir: Path) -> str:
    """Bound by the coordinator (ROUTER); launcher, frontends and workers connect."""
    return f"ipc://{run_dir / 'control'}"


def state_endpoint(run_dir: Path) -> str:
    """Bound by the coordinator (PUB); launcher and frontends subscribe."""
    return f"ipc://{run_dir / 'state'}"


def requests_endpoint(run_dir: Path, worker_id: str) -> str:
    """Bound by a worker (ROUTER); each frontend connects."""
    return f"ipc://{run_dir / worker_id}"


def fits(run_dir: Path) -> bool:
    """Whether the kernel takes socket paths in this directory."""
    return len(str(run_dir).encode()) + len("/worker-99999") <= MAX_PATH_BYTES


def router(context: zmq.Context[Any], endpoint: str) -> Any:
    """A bound ROUTER. Sending to a peer that is gone raises ZMQError (EHOSTUNREACH), to one that
    does not read, zmq.Again: by default such messages would vanish."""
    socket = _socket(context, zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    bind(socket, endpoint)
    return socket


def dealer(context: zmq.Context[Any], endpoint: str, identity: str) -> Any:
    """A DEALER on its way to a ROUTER, which will know it by `identity`."""
    socket = _socket(context, zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, identity.encode())
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.connect(endpoint)
    return socket


def publisher(context: zmq.Context[Any], endpoint: str) -> Any:
    socket = _socket(context, zmq.PUB)
    bind(socket, endpoint)
    return socket


def subscriber(context: zmq.Context[Any], endpoint: str) -> Any:
    """A SUB that keeps only the newest message: each is the whole state."""
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.CONFLATE, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(endpoint)
    return socket


def send_now(socket: Any, data: bytes) -> bool:
    """Send on an asynchronous socket without waiting; false when its queue is full.

    With NOBLOCK the future is done when it is returned.
    """
    sent = socket.send(data, zmq.NOBLOCK)
    error = sent.exception()
    if error is None:
        return True
    if isinstance(error, zmq.Again):
        return False
    raise error


class Arrived:
    """What has arrived on an asynchronous socket. A step's outputs come as small messages when few
    requests run, and waiting for each by itself costs more than reading it."""

    def __init__(self, socket: Any) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Socket.shadow(socket.underlying)

    def take(self, limit: int) -> Iterator[bytes]:
        """The messages that are there, `limit` of them at most."""
        for _ in range(limit):
            try:
                yield self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return


def bind(socket: Any, endpoint: str) -> None:
    """Bind, over whatever file a killed process has left at that path."""
    remove(endpoint)
    socket.bind(endpoint)


def remove(endpoint: str) -> None:
    """Remove the file of a socket whose process has ended, if there is one."""
    Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)


def _socket(context: zmq.Context[Any], kind: int) -> Any:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    return socket
