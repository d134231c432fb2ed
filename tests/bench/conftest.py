"""Small servers for tests of the load generator."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.bench.small_server import Answer, plain


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    """Starts a server that answers every POST by the function given; returns its URL."""
    servers, handlers = [], list[asyncio.Task[None] | None]()

    async def start(answer: Answer) -> str:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                match = re.search(rb"Content-Length: (\d+)", head)
                body = await reader.readexactly(int(match[1]) if match else 0)
                if head.startswith(b"GET"):
                    plain(writer, 200, {"data": [{"id": "tiny"}]})
                else:
                    await answer(json.loads(body), writer)
                await writer.drain()

        async def handle_until_closed(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            handlers.append(asyncio.current_task())
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await handle(reader, writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(handle_until_closed, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()
    await asyncio.gather(*filter(None, handlers))
