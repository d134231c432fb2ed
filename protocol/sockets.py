"""The sockets of a pool: their endpoints, and the options that each kind needs.

All are ipc sockets in the run directory, which only its owner can enter.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zmq

from headrace.protocol.codec import MAX_MESSAGE_BYTES

# Messages that may wait for a peer that reads slowly. A step's outputs are one message per
# frontend, so this covers minutes of a frontend that reads nothing; later messages are lost, and
# the gap in their numbers tells the frontend so.
HIGH_WATER_MARK = 10_000
# Published states that may wait for a subscriber. Each is the whole state, and another follows
# within a second, so that one who reads nothing costs memory for this many.
STATE_HIGH_WATER_MARK = 100
# Subscribers send nothing but their subscriptions.
MAX_SUBSCRIPTION_BYTES = 1024

# sun_path holds 108 bytes with the closing NUL.
MAX_PATH_BYTES = 107
# Of a worker: its slot and its start. A slot that fails every second for 100 days has a longer one.
LONGEST_NUMBERS = "-9999.9999999"


def control_endpoint(run_dir: Path) -> str:
    """Return the endpoint that the coordinator binds (ROUTER); all others connect."""
    return f"ipc://{run_dir / 'control'}"


def state_endpoint(run_dir: Path) -> str:
    """Return the endpoint that the coordinator binds (PUB); launcher and frontends subscribe."""
    return f"ipc://{run_dir / 'state'}"


def requests_endpoint(run_dir: Path, worker_id: str) -> str:
    """Return the endpoint that a worker binds (ROUTER) and each frontend connects to."""
    return f"ipc://{run_dir / worker_id}"


def excess_bytes(run_dir: Path, groups: Iterable[str]) -> int:
    """Return by how much a directory's path is too long for the sockets in it; 0 if it fits.

    A worker's socket has its id for a name, which becomes longer with the number of its restarts.
    """
    names = ["control", "state", *(group + LONGEST_NUMBERS for group in groups)]
    longest = max(len(os.fsencode(run_dir / name)) for name in names)
    return max(0, longest - MAX_PATH_BYTES)


def router(context: zmq.Context[Any], endpoint: str) -> Any:
    """Return a bound ROUTER. Sending to a peer that is gone raises ZMQError (EHOSTUNREACH), to one
    that does not read zmq.Again; by default such messages would be dropped silently."""
    socket = _socket(context, zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    bind(socket, endpoint)
    return socket


def dealer(context: zmq.Context[Any], endpoint: str, identity: str) -> Any:
    """Return a DEALER that connects to a ROUTER under an identity."""
    socket = _socket(context, zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, identity.encode())
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.connect(endpoint)
    return socket


def publisher(context: zmq.Context[Any], endpoint: str) -> Any:
    """Return a bound PUB."""
    socket = _socket(context, zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, STATE_HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
    bind(socket, endpoint)
    return socket


def subscriber(context: zmq.Context[Any], endpoint: str) -> Any:
    """Return a SUB that keeps only the newest message: each is the whole pool state."""
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
    """Send on an asynchronous socket without waiting; return false if its queue is full."""
    # With NOBLOCK the future is done when it is returned.
    sent = socket.send(data, zmq.NOBLOCK)
    error = sent.exception()
    if error is None:
        return True
    if isinstance(error, zmq.Again):
        return False
    raise error


class PendingMessages:
    """The messages that have arrived on an asynchronous socket. A step's outputs are small messages
    when few requests run, and awaiting each costs more than reading it."""

    def __init__(self, socket: Any) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Socket.shadow(socket.underlying)

    def drain(self, limit: int) -> Iterator[bytes]:
        """Yield the messages that are there, at most `limit`."""
        for _ in range(limit):
            try:
                yield self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return


def bind(socket: Any, endpoint: str) -> None:
    """Bind a socket for this user alone; replace a file that a killed process has left there."""
    remove(endpoint)
    socket.setsockopt(zmq.IPC_FILTER_UID, os.geteuid())
    socket.bind(endpoint)
    path_of(endpoint).chmod(0o600)


def remove(endpoint: str) -> None:
    """Remove the file of a socket whose process has ended, if it exists."""
    path_of(endpoint).unlink(missing_ok=True)


def path_of(endpoint: str) -> Path:
    """Return the path of a socket."""
    return Path(endpoint.removeprefix("ipc://"))


def _socket(context: zmq.Context[Any], kind: int) -> Any:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    return socket
