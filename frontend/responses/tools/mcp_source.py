"""Call the tools of an MCP server over streamable HTTP. Needs the extra `mcp`."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp import Client
from mcp.client.sse import sse_client
from mcp.types import TextContent

from headrace.frontend.responses.tools.interface import ToolFailure, ToolSpec

log = logging.getLogger("headrace.frontend.tools")

MAX_TOOLS = 256
_READ_TIMEOUT_S = 60.0


class MCPSource:
    """One MCP server; each call has a connection of its own, so that none can go stale.

    url: as the operator gave it; one that ends with /sse uses the older SSE transport.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def list_tools(self) -> list[ToolSpec]:
        """Return the first MAX_TOOLS tools. Raises ToolFailure if the server fails."""
        async with self._connected() as client:
            tools: list[ToolSpec] = []
            cursor = None
            while True:
                page = await client.list_tools(cursor=cursor)
                tools += [
                    ToolSpec(tool.name, tool.description or "", tool.input_schema)
                    for tool in page.tools
                ]
                cursor = page.next_cursor
                if cursor is None or len(tools) >= MAX_TOOLS:
                    return tools[:MAX_TOOLS]

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Call a tool and return its text. Raises ToolFailure if it or the server fails."""
        async with self._connected() as client:
            result = await client.call_tool(name, arguments)
        texts = [block.text for block in result.content if isinstance(block, TextContent)]
        text = "\n".join(texts)
        if not texts and result.structured_content is not None:
            text = json.dumps(result.structured_content, ensure_ascii=False)
        if result.is_error:
            raise ToolFailure(text or "the tool has failed")
        return text

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        """Connect. Raises ToolFailure for any error of the connection or of its use."""
        server = sse_client(self._url) if self._url.endswith("/sse") else self._url
        try:
            async with Client(server, read_timeout_seconds=_READ_TIMEOUT_S) as client:
                yield client
        except Exception as error:
            log.warning("tool server failed: %r", error)
            raise ToolFailure("the tool server cannot be reached, or has failed") from error
