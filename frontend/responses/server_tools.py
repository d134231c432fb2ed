"""List and call the tools of a response that the server runs."""

import json
from typing import Any

from headrace.frontend.errors import Unavailable
from headrace.frontend.responses.output.output_writer import ServerToolCall
from headrace.frontend.responses.request.requested_tools import RequestedServer, RequestedTools
from headrace.frontend.responses.store.journal import Journal
from headrace.frontend.responses.tools import tool_servers
from headrace.frontend.responses.tools.interface import ToolFailure, ToolSource, ToolSpec

# The output of a call and None, or None and the error.
ToolResult = tuple[str | None, str | None]


class ServerTools:
    """The tools of one response.

    listed: the tools of each server, by label. labels: the label of each tool's server, by name.
    What the journal of an earlier run has recorded is not requested again.
    """

    def __init__(self, requested: RequestedTools, journal: Journal) -> None:
        self.listed: dict[str, list[ToolSpec]] = {}
        self.labels: dict[str, str] = {}
        self._sources: dict[str, ToolSource] = {}
        self._requested = requested
        self._journal = journal

    async def list_all(self) -> None:
        """List the tools of all servers. Raises Unavailable if one fails."""
        for server in self._requested.servers:
            specs = await self._list(server)
            self.listed[server.label] = specs
            self.labels |= {spec.name: server.label for spec in specs}
            self._sources |= {spec.name: server.source for spec in specs}

    async def _list(self, server: RequestedServer) -> list[ToolSpec]:
        async def request() -> Any:
            return [list(spec) for spec in await tool_servers.list_tools(server.source)]

        try:
            listed = await self._journal.get_or_request(f"tools/{server.label}", request)
        except ToolFailure as error:
            raise Unavailable(f"tools: {error} ({server.label[:100]!r}).", "tools") from error
        specs = [ToolSpec(*spec) for spec in listed]
        return [spec for spec in specs if server.allowed is None or spec.name in server.allowed]

    async def call(self, call: ServerToolCall) -> ToolResult:
        """Call a tool; a failure is a result too, for the model to see."""

        async def request() -> Any:
            try:
                source = self._sources[call.name]
                arguments = _parse_arguments(call.arguments)
                return [await tool_servers.call_tool(source, call.name, arguments), None]
            except ToolFailure as error:
                return [None, str(error)[: tool_servers.MAX_RESULT_CHARS]]

        output, error = await self._journal.get_or_request(f"result/{call.index}", request)
        return output, error


def _parse_arguments(text: str) -> Any:
    if len(text) > tool_servers.MAX_ARGUMENT_CHARS:
        raise ToolFailure("the arguments are too long")
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ToolFailure("the arguments are not valid JSON") from error
