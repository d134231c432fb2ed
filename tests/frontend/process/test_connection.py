"""Connections that fail by themselves, and what is written to them directly."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import h11
import hypercorn.asyncio
import hypercorn.config
import hypercorn.protocol
import pytest
from hypercorn.asyncio.tcp_server import TCPServer

from headrace.frontend.middleware.asgi import WRITE_BODY_KEY, WriteBody
from headrace.frontend.process.connection import MAX_WAITING_BYTES, Connection
from headrace.frontend.process.http1 import HTTP1Protocol


async def connection(socket: Any) -> Connection:
    writer = SimpleNamespace(get_extra_info=lambda name: socket)
    nothing: Any = None
    loop = asyncio.get_running_loop()
    return Connection(nothing, loop, nothing, nothing, nothing, nothing, writer)  # type: ignore[arg-type]


async def test_a_client_that_has_gone_before_it_was_begun(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its transport has no socket any more."""
    await (await connection(None))
    assert caplog.text == ""


async def test_one_that_fails_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(self: TCPServer) -> None:
        raise ValueError("a fault of its own")

    monkeypatch.setattr(TCPServer, "run", run)
    one = await connection(object())
    await asyncio.gather(one.run(), asyncio.sleep(0))
    assert "a fault of its own" in caplog.text


async def test_one_that_is_cancelled_ends_without_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As connections are that are open when their process ends."""

    async def run(self: TCPServer) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(TCPServer, "run", run)
    task = asyncio.create_task((await connection(object())).run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert not task.cancelled()
    assert task.exception() is None


# Direct writing

Answer = Callable[[WriteBody, Callable[[bytes], Awaitable[None]]], Awaitable[None]]


class Directly:
    """A server whose answers consist of what `answer` writes. port: where it listens."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answer: Answer | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return

        async def body(data: bytes, more_body: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more_body})

        write = scope["state"][WRITE_BODY_KEY]
        assert not write(b"before the answer has begun")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert self.answer is not None
        await self.answer(write, body)
        await body(b"", more_body=False)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Directly]:
    monkeypatch.setattr(hypercorn.asyncio.run, "TCPServer", Connection)
    monkeypatch.setattr(hypercorn.protocol, "H11Protocol", HTTP1Protocol)
    settings = hypercorn.config.Config()
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings.bind = [f"fd://{listener.fileno()}"]
        app = Directly(listener.getsockname()[1])
        serving: Any = hypercorn.asyncio.serve(app, settings, shutdown_trigger=stop.wait)
        task = asyncio.create_task(serving)
        yield app
        stop.set()
        await task
        listener.detach()  # closed by the server


async def read(port: int, version: str) -> bytes:
    """The body of an answer, as a client of HTTP's own grammar reads it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            client.receive_data(await asyncio.wait_for(reader.read(1000), 5))
        elif isinstance(event, h11.Data):
            body += event.data
    writer.close()
    await writer.wait_closed()
    return body


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_parts_that_are_written_directly_keep_their_place(
    server: Directly, version: str
) -> None:
    async def answer(write: WriteBody, send: Callable[[bytes], Awaitable[None]]) -> None:
        await send(b"first;")
        assert write(b"second;")
        assert write(b"third;")
        await send(b"fourth;")
        assert write("fünf;".encode() * 100)

    server.answer = answer
    assert (
        await read(server.port, version) == b"first;second;third;fourth;" + "fünf;".encode() * 100
    )


async def test_a_client_that_does_not_read_must_be_waited_for(server: Directly) -> None:
    tried = asyncio.Event()
    written = 0

    async def answer(write: WriteBody, send: Callable[[bytes], Awaitable[None]]) -> None:
        nonlocal written
        await send(b"first")
        while write(b"x" * 10_000):
            written += 10_000
            await asyncio.sleep(0)  # so that what is written is sent
        tried.set()

    server.answer = answer
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1000)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.wait_for(tried.wait(), 10)
    assert written > MAX_WAITING_BYTES
    while not (await asyncio.wait_for(reader.read(1_000_000), 5)).endswith(b"\r\n0\r\n\r\n"):
        continue  # it reads now, and gets the end
    writer.close()
    await writer.wait_closed()


async def test_nothing_is_written_to_a_client_that_has_gone(server: Directly) -> None:
    refused = asyncio.Event()

    async def answer(write: WriteBody, send: Callable[[bytes], Awaitable[None]]) -> None:
        await send(b"first")
        for _ in range(500):
            if not write(b"x"):
                refused.set()
                return
            await asyncio.sleep(0.01)

    server.answer = answer
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.read(10)
    writer.close()
    await asyncio.wait_for(refused.wait(), 5)
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


# Requests that are no HTTP

ANSWERS = pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b" HTTP/1.1\r\nHost a\r\n\r\n", 400),
        (b" HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, 431),
        (b" HTTP/1.1\nHost: a\n\n", 400),
        (b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", 400),
        (b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b" HTTP/2.5\r\nHost: a\r\n\r\n", 505),
    ],
)


async def refused(port: int, request: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    writer.close()
    status, *headers = head.decode().split("\r\n")
    named = dict(header.lower().split(": ", 1) for header in headers)
    return int(status.split()[1]), named, json.loads(body)


@ANSWERS
async def test_errors_have_the_shape_of_their_api(
    server: Directly, rest: bytes, status: int
) -> None:
    async def answer(write: WriteBody, send: Callable[[bytes], Awaitable[None]]) -> None:
        await asyncio.sleep(60)

    server.answer = answer
    for target in (b"/v1/messages", b"/v1/messages/count_tokens?beta=true", b"/under/v1/messages"):
        shown, headers, body = await refused(server.port, b"POST " + target + rest)
        assert shown == status
        kind = "invalid_request_error" if status < 500 else "api_error"
        assert (body["type"], body["error"]["type"]) == ("error", kind)
        assert body["request_id"] == headers["request-id"] != ""
    for target in (b"/v1/messages_too", b"/v1/completions?to=/v1/messages"):
        shown, headers, body = await refused(server.port, b"POST " + target + rest)
        assert (shown, body["error"]["code"]) == (status, status)
        assert "request-id" not in headers
