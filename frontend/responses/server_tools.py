"""The tools of a response that the server runs: listed once, called as the model asks for them."""

import json
from typing import Any

from headrace.frontend.errors import Unavailable
from headrace.frontend.responses.output.output_writer import ServerToolCall
from headrace.frontend.responses.request.requested_tools import RequestedServer, RequestedTools
from headrace.frontend.responses.store.journal import Journal
from headrace.frontend.responses.tools import tool_servers as servers
from headrace.frontend.responses.tools.interface import ToolFailure, ToolSource, ToolSpec

# Output of a call, or why there is none.
Result = tuple[str | None, str | None]


class ServerTools:
    """listed: the tools of each server, by its label. labels: the label for each tool's name.

    The journal knows what an earlier run has been told: that is not asked again.
    """

    def __init__(self, requested: RequestedTools, journal: Journal) -> None:
        self.listed: dict[str, list[ToolSpec]] = {}
        self.labels: dict[str, str] = {}
        self._sources: dict[str, ToolSource] = {}
        self._requested = requested
        self._journal = journal

    async def ask(self) -> None:
        """Ask all servers. Unavailable if one does not answer."""
        for server in self._requested.servers:
            specs = await self._list(server)
            self.listed[server.label] = specs
            self.labels |= {spec.name: server.label for spec in specs}
            self._sources |= {spec.name: server.source for spec in specs}

    async def _list(self, server: RequestedServer) -> list[ToolSpec]:
        async def ask() -> Any:
            return [list(spec) for spec in await servers.list_tools(server.source)]

        try:
            listed = await self._journal.asked(f"tools/{server.label}", ask)
        except ToolFailure as error:
            raise Unavailable(f"tools: {error} ({server.label[:100]!r}).", "tools") from error
        specs = [ToolSpec(*spec) for spec in listed]
        return [spec for spec in specs if server.allowed is None or spec.name in server.allowed]

    async def call(self, call: ServerToolCall) -> Result:
        """A result; failures are results too, for the model to see."""

        async def ask() -> Any:
            try:
                source = self._sources[call.name]
                return [await servers.call(source, call.name, _arguments(call.arguments)), None]
            except ToolFailure as error:
                return [None, str(error)[: servers.MAX_RESULT_CHARS]]

        output, error = await self._journal.asked(f"result/{call.index}", ask)
        return output, error


def _arguments(text: str) -> Any:
    if len(text) > servers.MAX_ARGUMENT_CHARS:
        raise ToolFailure("the arguments are too long")
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ToolFailure("the arguments are no JSON") from error
