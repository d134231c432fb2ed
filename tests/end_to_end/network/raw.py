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


def connect(server: Server, timeout_s: float = 20.0) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 80), timeout=timeout_s)


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
