"""Parse the tools of a request: the client's tools and the operator's tool servers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from openai.types.responses import Tool as OpenAITool
from pydantic import TypeAdapter, ValidationError

from headrace.frontend.errors import BadRequest
from headrace.frontend.responses.request.client_tools import (
    TOOL_SEARCH,
    ClientTool,
    note_unknown_fields,
    read_client_tool,
    read_namespace,
    read_tool_search,
)
from headrace.frontend.responses.request.item_fields import (
    malformed,
    read_name,
    read_optional_text,
)
from headrace.frontend.responses.tools import tool_servers
from headrace.frontend.responses.tools.interface import ToolServer, ToolSource
from headrace.frontend.schemas.limits import limit_of
from headrace.frontend.schemas.responses import Item, ResponsesRequest
from headrace.frontend.structured.constraint import check_depth

_MCP_FIELDS = frozenset(
    {"type", "server_label", "server_url", "server_description", "allowed_tools"}
    | {"require_approval"}
)
# Fields that would have an effect on the server's tools, which operators configure.
_REFUSED_MCP_FIELDS = frozenset({"headers", "authorization", "connector_id", "tunnel_id"})
# Names that are noted; more are ignored without being named.
MAX_IGNORED = 32
# Items of the input that make tools available.
TOOL_ITEMS = frozenset({"additional_tools", "tool_search_output"})
_SHOWN_TOOL: TypeAdapter[Any] = TypeAdapter(OpenAITool)


@dataclass(frozen=True, slots=True)
class RequestedServer:
    """A tool server that a request uses. allowed: the names of its tools to offer; None for all."""

    label: str
    source: ToolSource
    allowed: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class RequestedTools:
    """The tools of a request.

    client: those that the client runs.
    echo: the tools as responses show them, those that cannot be run included.
    ignored: the names of fields and kinds of tools that have no effect.
    """

    client: Sequence[ClientTool]
    servers: Sequence[RequestedServer]
    echo: Sequence[Item]
    ignored: Sequence[str]


def read_tools(request: ResponsesRequest, known: Sequence[ToolServer]) -> RequestedTools:
    """Return the request's tools. Raises ApiError, which names the field, if one is invalid.

    Tools that this server cannot run are left out.
    """
    reader = _ToolReader(known)
    for index, tool in enumerate(request.tools or ()):
        reader.add(tool, f"tools.{index}")
    for where, tool in _tools_of_items(request.input):
        reader.add(tool, where)
    return reader.finish()


def _tools_of_items(value: str | list[Item] | None) -> Iterator[tuple[str, Item]]:
    """Yield the tools that items of the input make available, and where they are."""
    for index, item in enumerate(value if isinstance(value, list) else ()):
        kind, tools = item.get("type"), item.get("tools")
        if isinstance(kind, str) and kind in TOOL_ITEMS and isinstance(tools, list):
            if len(tools) > limit_of("max_tools"):
                where = f"input.{index}.tools"
                raise BadRequest(f"{where}: holds more than {limit_of('max_tools')}.", where)
            for number, tool in enumerate(tools):
                if isinstance(tool, dict) and isinstance(tool.get("type"), str):
                    yield f"input.{index}.tools.{number}", tool


class _ToolReader:
    def __init__(self, known: Sequence[ToolServer]) -> None:
        self._known = known
        self._client: list[ClientTool] = []
        self._names: set[str] = set()
        self._servers: list[RequestedServer] = []
        self._echo: list[Item] = []
        self._ignored: list[str] = []

    def add(self, tool: Item, where: str) -> None:
        kind = read_name(tool, "type", where)
        if kind in ("function", "custom"):
            read, shown = read_client_tool(tool, where, self._ignored)
            self._add_client_tools([read], shown, where)
        elif kind == "namespace":
            self._add_client_tools(*read_namespace(tool, where, self._ignored), where)
        elif kind == TOOL_SEARCH and tool.get("execution") == "client":
            read, shown = read_tool_search(tool, where, self._ignored)
            self._add_client_tools([read], shown, where)
        elif kind == "mcp":
            self._servers.append(_server(tool, where, self._known, self._ignored))
            self._echo.append(_given({field: tool.get(field) for field in _MCP_FIELDS}))
        else:
            self._leave_out(tool, kind)

    def _add_client_tools(self, tools: list[ClientTool], shown: Item, where: str) -> None:
        if where.startswith("input."):  # they may be among tools, or in several items
            tools = [tool for tool in tools if tool.function_name not in self._names]
        else:
            self._echo.append(shown)
        self._client += tools
        self._names |= {tool.function_name for tool in tools}

    def _leave_out(self, tool: Item, kind: str) -> None:
        self._ignored.append(f"tools.{kind}")
        try:
            check_depth(tool, "tools")
            _SHOWN_TOOL.validate_python(_given(tool))
        except (ValidationError, BadRequest):
            return  # events cannot show it
        self._echo.append(_given(tool))

    def finish(self) -> RequestedTools:
        labels = [server.label for server in self._servers]
        if len(set(labels)) < len(labels):
            raise BadRequest("tools: two servers have the same server_label.", "tools")
        ignored = list(dict.fromkeys(self._ignored))[:MAX_IGNORED]
        return RequestedTools(self._client, self._servers, self._echo, ignored)


def _server(
    tool: Item, where: str, known: Sequence[ToolServer], ignored: list[str]
) -> RequestedServer:
    for name in _REFUSED_MCP_FIELDS:
        if tool.get(name) is not None:
            field = f"{where}.{name}"
            raise BadRequest(f"{field}: is not supported by this server.", field)
    note_unknown_fields(tool, _MCP_FIELDS | _REFUSED_MCP_FIELDS, ignored)
    if tool.get("require_approval") != "never":
        raise BadRequest(
            f"{where}.require_approval: must be 'never': this server asks for no approvals.",
            f"{where}.require_approval",
        )
    read_optional_text(tool, "server_description", where)
    label = read_name(tool, "server_label", where)
    url = read_optional_text(tool, "server_url", where)
    server = tool_servers.find_server(known, label, url, where)
    return RequestedServer(label, server.source, _allowed(tool.get("allowed_tools"), where))


def _allowed(value: Any, where: str) -> frozenset[str] | None:
    if isinstance(value, dict) and set(value) == {"tool_names"}:
        value = value["tool_names"]
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise malformed(f"{where}.allowed_tools", "must be a list of names")
    return frozenset(value)


def _given(tool: Item) -> Item:
    return {name: value for name, value in tool.items() if value is not None}
