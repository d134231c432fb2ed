"""Clients that write bytes of their own, and what comes back."""

import json
import socket
import time
from typing import Any, NamedTuple

import httpx

from tests.end_to_end.servers import Server


class Reply(NamedTuple):
    """What a server has sent. is_closed: whether it closed. took_s: until the end of the reply, or
    of the connection."""

    data: bytes
    is_closed: bool
    took_s: float

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1]) if self.data else 0

    @property
    def body(self) -> Any:
        return json.loads(self.data.partition(b"\r\n\r\n")[2])


def connect(
    server: Server, timeout_s: float = 20.0, receive_bytes: int | None = None
) -> socket.socket:
    """receive_bytes: of the kernel's buffer. It must be set first: what a sender was told before
    that it may send is dropped, and sent again after seconds, or minutes if that happens again and
    again. So the sender is told of a quarter of it: packets take more room than their bytes."""
    url = httpx.URL(server.url)
    made = socket.socket(socket.AF_INET6 if ":" in url.host else socket.AF_INET)
    if receive_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, receive_bytes // 4)
    made.settimeout(timeout_s)
    try:
        made.connect((url.host, url.port or 80))
    except OSError:
        made.close()
        raise
    return made


def ask(server: Server, data: bytes, timeout_s: float = 3.0) -> Reply:
    """Send bytes; read until the server closes, or for so long."""
    with connect(server) as connection:
        connection.sendall(data)
        return read(connection, timeout_s)


def read(connection: socket.socket, timeout_s: float = 3.0) -> Reply:
    """Read until the server closes, or for so long."""
    begun_at = last_at = time.monotonic()
    received = b""
    while (left_s := begun_at + timeout_s - time.monotonic()) > 0:
        connection.settimeout(left_s)
        try:
            data = connection.recv(65536)
        except TimeoutError:
            break
        except ConnectionError:
            return Reply(received, True, time.monotonic() - begun_at)
        if not data:
            return Reply(received, True, time.monotonic() - begun_at)
        received += data
        last_at = time.monotonic()
    return Reply(received, False, last_at - begun_at)


def head(path: str = "/v1/completions", *headers: str, method: str = "POST") -> bytes:
    """The beginning of a request of JSON."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a", "Content-Type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(path: str, body: dict[str, Any], *headers: str) -> bytes:
    data = json.dumps(body).encode()
    return head(path, f"Content-Length: {len(data)}", *headers) + data
