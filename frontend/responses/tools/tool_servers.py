"""Find and call the tool servers that the operator has configured; no other is ever contacted."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.responses.tools.demo_source import DemoSource
from headrace.frontend.responses.tools.interface import (
    ToolFailure,
    ToolServer,
    ToolSource,
    ToolSpec,
)

LIST_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 60.0
MAX_RESULT_CHARS = 64 * 1024
MAX_ARGUMENT_CHARS = 256 * 1024


def configured_servers(entries: Sequence[str]) -> list[ToolServer]:
    """Return the servers of `--tool-server`: "demo", "host:port" or a URL."""
    return [_server(entry) for entry in entries]


def _server(entry: str) -> ToolServer:
    if entry == "demo":
        return ToolServer(entry, None, DemoSource())
    url = entry if "://" in entry else f"http://{entry}/mcp"
    # Imported here: takes half a second, and needs an extra.
    from headrace.frontend.responses.tools.mcp_source import MCPSource

    return ToolServer(entry, urlsplit(url).netloc.lower(), MCPSource(url))


def find_server(
    servers: Sequence[ToolServer], label: str, url: str | None, where: str
) -> ToolServer:
    """Return the server that a request names, by URL or by label.

    Only host and port of the URL count: the address that the operator gave is contacted.
    Raises BadRequest if no configured server matches. where: the field to name.
    """
    if url is None:
        for server in servers:
            if server.name == label:
                return server
        field, shown = "server_label", label
    else:
        for server in servers:
            if server.netloc is not None and server.netloc == _netloc(url):
                return server
        field, shown = "server_url", url
    raise BadRequest(
        f"{where}.{field}: this server uses no tool server {shortened(shown)!r}.",
        f"{where}.{field}",
    )


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None


async def list_tools(source: ToolSource) -> list[ToolSpec]:
    """List the tools of a source, with a timeout. Raises ToolFailure if that fails."""
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            return await source.list_tools()
    except TimeoutError as error:
        raise ToolFailure("the tool server does not answer") from error


async def call_tool(source: ToolSource, name: str, arguments: Any) -> str:
    """Call a tool, with a timeout, and return its result, of bounded length.

    Raises ToolFailure if that fails.
    """
    if not isinstance(arguments, dict):
        raise ToolFailure("the arguments must be a JSON object")
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            result = await source.call(name, arguments)
    except TimeoutError as error:
        raise ToolFailure(f"the tool took longer than {CALL_TIMEOUT_S:.0f} s") from error
    if len(result) > MAX_RESULT_CHARS:
        raise ToolFailure(f"the result has more than {MAX_RESULT_CHARS} characters")
    return result
