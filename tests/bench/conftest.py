"""The package `bench`, and small servers for tests of the load generator."""

import asyncio
import contextlib
import importlib.util
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.bench.small_server import Answer, plain

_BENCH = Path(__file__).parents[2] / "bench"


def _load_bench() -> None:
    """Make `bench` importable though the repository root must not be on the path."""
    spec = importlib.util.spec_from_file_location(
        "bench", _BENCH / "__init__.py", submodule_search_locations=[str(_BENCH)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["bench"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_load_bench()


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
