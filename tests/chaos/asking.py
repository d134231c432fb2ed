"""One request on a connection of its own, whose port tells afterwards which frontend had it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from bench.load.http import Connection, Events, HTTPFailure, Response

from .answers import Outcome, read_stream, read_whole
from .catalogue import Request


class Broken(Exception):
    """The connection has ended before the answer has. port: the client's; 0 if there was none."""

    def __init__(self, port: int, error: Exception) -> None:
        super().__init__(f"port {port}: {type(error).__name__}: {error}")
        self.port = port


class Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


async def ask(host: str, port: int, request: Request, stream: bool) -> Outcome:
    """The answer. A client that is cancelled has hung up."""
    async with _response(host, port, *_message(request, stream)) as response:
        return await _read(response, stream)


async def look(host: str, port: int, path: str) -> bytes:
    """What a GET answers."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    async with _response(host, port, head, b"") as response:
        return await response.read()


@asynccontextmanager
async def _response(host: str, port: int, head: bytes, body: bytes) -> AsyncIterator[Response]:
    """A response with status 200 to be read. Broken, whenever the connection breaks; Refused."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise Broken(0, error) from error
    own_port = writer.get_extra_info("sockname")[1]
    with closing(writer):
        try:
            response = await Connection(reader, writer).request(head, body)
            if response.status != 200:
                raise Refused(response.status, (await response.read()).decode())
            yield response
        except (OSError, HTTPFailure) as error:
            raise Broken(own_port, error) from error


async def _read(response: Response, stream: bool) -> Outcome:
    if not stream:
        return read_whole(await response.read())
    cut, events = Events(), []
    async for part in response.parts():
        events += cut.feed(part)
    return read_stream(events)


def _message(request: Request, stream: bool) -> tuple[bytes, bytes]:
    body = dict(request.body)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body).encode()
    head = (
        f"POST {request.path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode(), data
