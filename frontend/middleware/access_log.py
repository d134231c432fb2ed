"""Log a line for each answered HTTP request: who asked, for what, and what became of it.

Queries, headers and bodies are left out: they may hold secrets.
"""

import logging
from collections.abc import Collection

from headrace.frontend.middleware.asgi import ASGIScope, Message, Send, WriteBody
from headrace.protocol.api_keys import ApiKey
from headrace.protocol.logs.safe_text import one_line
from headrace.protocol.logs.set_up import ACCESS_LOGGER

MAX_PATH_CHARS = 500
MAX_METHOD_CHARS = 32

log = logging.getLogger(ACCESS_LOGGER)


class AccessLog:
    """The access log. excluded: paths whose requests are left out. root_path: before paths."""

    def __init__(self, excluded: Collection[str] = (), root_path: str = "") -> None:
        self._excluded = frozenset(excluded)
        self._root_path = root_path.rstrip("/")

    def entry(self, scope: ASGIScope) -> "AccessEntry | None":
        """Return the entry of a request that has come; None if it is left out."""
        path = scope["path"]
        if path in self._excluded or path.removeprefix(self._root_path) in self._excluded:
            return None
        return AccessEntry(scope)


class AccessEntry:
    """A request's line, as far as it is known."""

    def __init__(self, scope: ASGIScope) -> None:
        self._scope = scope
        self._status: int | None = None  # no answer was begun
        self._bytes = 0

    def counting(self, send: Send) -> Send:
        """Return a function that sends messages and notes the status and the body's size."""

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
            elif message["type"] == "http.response.body":
                self._bytes += len(message.get("body", b""))
            await send(message)

        return count_and_send

    def counting_writes(self, write: WriteBody) -> WriteBody:
        """Return a function that writes parts of the body and counts them."""

        def count_and_write(data: bytes) -> bool:
            is_written = write(data)
            if is_written:
                self._bytes += len(data)
            return is_written

        return count_and_write

    def write(self, duration_s: float, key: ApiKey | None) -> None:
        """Log the line."""
        client = _client(self._scope)
        path, method = _path(self._scope), self._scope["method"][:MAX_METHOD_CHARS]
        name = None if key is None else key.name
        log.info(
            '%s %s "%s %s HTTP/%s" %s %d B %.3f s',
            client,
            name or "-",
            method,
            path,
            self._scope["http_version"],
            self._status or "-",
            self._bytes,
            duration_s,
            extra={
                "client": client,
                "key": name,
                "method": one_line(method),
                "path": path,
                "status": self._status,
                "bytes": self._bytes,
                "duration_s": round(duration_s, 6),
            },
        )


def _client(scope: ASGIScope) -> str:
    address = scope.get("client")
    if not address or not address[0]:
        return "unix"
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _path(scope: ASGIScope) -> str:
    """Return the path as it was sent, with percent escapes, so that it cannot end its own field."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
    path = raw.partition(b"?")[0].decode("latin1").replace('"', "%22").replace(" ", "%20")
    cut = path if len(path) <= MAX_PATH_CHARS else f"{path[:MAX_PATH_CHARS]}..."
    return one_line(cut)
