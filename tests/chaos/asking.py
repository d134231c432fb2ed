"""One request on a connection of its own, whose port tells afterwards which frontend had it."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

from bench.load.http import Connection, EventParser, HTTPFailure, Response

from . import answers, other_answers
from .answers import Outcome
from .catalogue import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Request

_READ_WHOLE = {
    CHAT: answers.read_whole,
    COMPLETIONS: answers.read_whole,
    RESPONSES: other_answers.read_response,
    MESSAGES: other_answers.read_message,
}
_READ_STREAM = {
    CHAT: answers.read_stream,
    COMPLETIONS: answers.read_stream,
    RESPONSES: other_answers.read_response_stream,
    MESSAGES: other_answers.read_message_stream,
}


@dataclass(frozen=True)
class Address:
    """A server. key: sent with each request, unless empty. context: of TLS, if it is spoken."""

    host: str
    port: int
    key: str = ""
    context: ssl.SSLContext | None = None

    def head(self, method: str, path: str) -> str:
        """The first line of a request, and the headers that each has."""
        key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{key}"


class Broken(Exception):
    """The connection has ended before the answer has. port: the client's; 0 if there was none."""

    def __init__(self, port: int, error: Exception) -> None:
        super().__init__(f"port {port}: {type(error).__name__}: {error}")
        self.port = port


class ErrorStatus(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


async def ask(address: Address, request: Request, stream: bool) -> Outcome:
    """The answer. A client that is cancelled has hung up."""
    stream = stream and request.can_stream
    async with _response(
        address, *_post(address, request.path, body_of(request, stream))
    ) as response:
        return await _read(response, request, stream)


async def look(address: Address, path: str) -> bytes:
    """What a GET answers."""
    head = f"{address.head('GET', path)}\r\n".encode()
    async with _response(address, head, b"") as response:
        return await response.read()


async def order(address: Address, path: str, body: dict[str, Any]) -> None:
    """Have an operator's call done. Raises ErrorStatus or Broken if it fails."""
    async with _response(address, *_post(address, path, body)) as response:
        await response.read()


async def _connected(address: Address) -> socket.socket:
    """Return a socket before TLS is spoken: what breaks from then on has a port."""
    client = socket.socket()
    client.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(client, (address.host, address.port))
    except BaseException:
        client.close()
        raise
    return client


@asynccontextmanager
async def _response(address: Address, head: bytes, body: bytes) -> AsyncIterator[Response]:
    """A response with status 200 to be read.

    Raises Broken whenever the connection breaks, ErrorStatus for any other status.
    """
    own_port = 0
    try:
        client = await _connected(address)
        own_port = client.getsockname()[1]
        server_name = "localhost" if address.context else None
        reader, writer = await asyncio.open_connection(
            sock=client, ssl=address.context, server_hostname=server_name
        )
    except OSError as error:
        raise Broken(own_port, error) from error
    with closing(writer):
        try:
            response = await Connection(reader, writer).request(head, body)
            if response.status != 200:
                raise ErrorStatus(response.status, (await response.read()).decode())
            yield response
        except (OSError, HTTPFailure) as error:
            raise Broken(own_port, error) from error


async def _read(response: Response, request: Request, stream: bool) -> Outcome:
    if not stream:
        return read_whole(request, await response.read())
    cut, events = EventParser(), []
    async for part in response.parts():
        events += cut.feed(part)
    return read_stream(request, events)


def body_of(request: Request, stream: bool) -> dict[str, Any]:
    """The body to send. A stream is to tell its usage, too."""
    body = dict(request.body)
    if stream:
        body["stream"] = True
        if request.path in (CHAT, COMPLETIONS):
            body["stream_options"] = {"include_usage": True}
    return body


def read_whole(request: Request, body: bytes) -> Outcome:
    """What an answer says that was not streamed."""
    return _READ_WHOLE[request.path](body)


def read_stream(request: Request, events: list[bytes]) -> Outcome:
    """What a stream's events say. Wrong, if they are no whole answer."""
    return _READ_STREAM[request.path](events)


def _post(address: Address, path: str, body: dict[str, Any]) -> tuple[bytes, bytes]:
    data = json.dumps(body).encode()
    head = (
        f"{address.head('POST', path)}"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode(), data
