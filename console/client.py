"""A client of a server's routes, with Python's standard library."""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 5.0
# The first that is set is sent.
KEY_VARIABLES = ("HEADRACE_ADMIN_KEY", "HEADRACE_API_KEY")
CA_VARIABLE = "HEADRACE_CA_FILE"


class Unreachable(Exception):
    """The server did not answer as Headrace does. The text is one line."""


def key_of(environment: Mapping[str, str] = os.environ) -> str:
    """Return the key that the environment gives; "" if there is none."""
    given = (environment.get(name, "").strip() for name in KEY_VARIABLES)
    return next((key for key in given if key), "")


@dataclass
class Client:
    """A client of one server.

    url: http://, https:// or unix:PATH, with the server's prefix if it has one.
    key: to send; "" for none. ca_file: certificates that may sign the server's; None: the system's.
    """

    url: str
    key: str = field(default="", repr=False)
    ca_file: Path | None = None
    _tls: ssl.SSLContext | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")

    def text(self, path: str) -> str:
        """Get a body, whatever the status: that of /health matters with a 503, too.

        Raises Unreachable if there is no answer, or if the key is not accepted.
        """
        if not self.key.isprintable():
            raise Unreachable(f"{' or '.join(KEY_VARIABLES)}: the key holds control characters")
        headers = {"Authorization": b"Bearer " + self.key.encode()} if self.key else {}
        try:
            connection, prefix = self._connection()
            try:
                connection.request("GET", prefix + path, headers=headers)
                answer = connection.getresponse()
                body = answer.read().decode(errors="replace")
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.url} does not answer: {_reason(error)}") from error
        if answer.status in (401, 403):
            problem = "does not accept the key" if self.key else "needs a key"
            raise Unreachable(f"{self.url} {problem}: set {' or '.join(KEY_VARIABLES)}")
        return body

    def json(self, path: str) -> dict[str, Any]:
        """Get a JSON object. Raises Unreachable if the answer is not one."""
        try:
            value = json.loads(self.text(path))
        except ValueError as error:
            raise Unreachable(f"{self.url}{path} is not of this server") from error
        if not isinstance(value, dict):
            raise Unreachable(f"{self.url}{path} is not of this server")
        return value

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        """Return a connection that is made by its first request, and the prefix of paths."""
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return _UnixConnection(parts.path), ""
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("its URL must begin with http://, https:// or unix:/")
        if parts.scheme == "http":
            plain = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
            return plain, parts.path
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self.ca_file)
        secured = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=TIMEOUT_S, context=self._tls
        )
        return secured, parts.path


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): see {CA_VARIABLE}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
