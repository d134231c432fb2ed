"""Parse the tools of a request: the client's functions and the operator's tool servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.responses.tools import tool_servers
from headrace.frontend.responses.tools.interface import ToolServer, ToolSource, ToolSpec
from headrace.frontend.schemas.responses import Item, ResponsesRequest
from headrace.frontend.structured.constraint import check_depth

_FUNCTION_FIELDS = frozenset({"type", "name", "description", "parameters", "strict"})
_MCP_FIELDS = frozenset(
    {"type", "server_label", "server_url", "server_description", "allowed_tools"}
    | {"require_approval"}
)
_MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class RequestedServer:
    """A tool server that a request uses. allowed: the names of its tools to offer; None for all."""

    label: str
    source: ToolSource
    allowed: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class RequestedTools:
    """The tools of a request. echo: the tools as responses show them."""

    functions: Sequence[Item]
    servers: Sequence[RequestedServer]
    echo: Sequence[Item]


def read_tools(request: ResponsesRequest, known: Sequence[ToolServer]) -> RequestedTools:
    """Return the request's tools. Raises BadRequest, which names the field, if one is invalid."""
    functions: list[Item] = []
    used: list[RequestedServer] = []
    echo: list[Item] = []
    for index, tool in enumerate(request.tools or ()):
        where = f"tools.{index}"
        kind = tool.get("type")
        if kind == "function":
            echo.append(_function(tool, where))
            functions.append(echo[-1])
        elif kind == "mcp":
            used.append(_server(tool, where, known))
            echo.append(_mcp_echo(tool))
        else:
            shown = shortened(kind) if isinstance(kind, str) else "without a type"
            raise BadRequest(
                f"{where}.type: tools {shown!r} are not supported, only function and mcp.",
                f"{where}.type",
            )
    labels = [server.label for server in used]
    if len(set(labels)) < len(labels):
        raise BadRequest("tools: two servers have the same server_label.", "tools")
    return RequestedTools(functions, used, echo)


def _function(tool: Item, where: str) -> Item:
    _check_fields(tool, _FUNCTION_FIELDS, where)
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise BadRequest(f"{where}.parameters: must be an object.", f"{where}.parameters")
    check_depth(parameters, f"{where}.parameters")
    strict = tool.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise BadRequest(f"{where}.strict: must be a boolean.", f"{where}.strict")
    return {
        "type": "function",
        "name": _string(tool, "name", where),
        "description": _optional_string(tool, "description", where),
        "parameters": parameters,
        "strict": strict,
    }


def _server(tool: Item, where: str, known: Sequence[ToolServer]) -> RequestedServer:
    _check_fields(tool, _MCP_FIELDS, where)
    if tool.get("require_approval") != "never":
        raise BadRequest(
            f"{where}.require_approval: must be 'never': this server asks for no approvals.",
            f"{where}.require_approval",
        )
    _optional_string(tool, "server_description", where)
    label = _string(tool, "server_label", where)
    url = None if tool.get("server_url") is None else _string(tool, "server_url", where, 4096)
    server = tool_servers.find_server(known, label, url, where)
    return RequestedServer(label, server.source, _allowed(tool.get("allowed_tools"), where))


def _allowed(value: Any, where: str) -> frozenset[str] | None:
    if isinstance(value, dict) and set(value) == {"tool_names"}:
        value = value["tool_names"]
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise BadRequest(
            f"{where}.allowed_tools: must be a list of names.", f"{where}.allowed_tools"
        )
    return frozenset(value)


def _mcp_echo(tool: Item) -> Item:
    return {name: value for name, value in tool.items() if value is not None}


def _check_fields(tool: Item, known: frozenset[str], where: str) -> None:
    for name in tool:
        if name not in known and tool[name] is not None:
            field = f"{where}.{shortened(name)}"
            raise BadRequest(f"{field}: is not supported by this server.", field)


def _optional_string(tool: Item, field: str, where: str) -> str | None:
    value = tool.get(field)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{where}.{field}: must be a string.", f"{where}.{field}")
    return value


def _string(tool: Item, field: str, where: str, max_chars: int = _MAX_NAME_CHARS) -> str:
    value = tool.get(field)
    if not isinstance(value, str) or not 0 < len(value) <= max_chars:
        raise BadRequest(
            f"{where}.{field}: must be a string of 1 to {max_chars} characters.", f"{where}.{field}"
        )
    return value


def chat_tools(
    requested: RequestedTools, listed: Mapping[str, Sequence[ToolSpec]]
) -> list[dict[str, Any]]:
    """Return all tools as a chat takes them. listed: the tools of each server, by label.

    Raises BadRequest if two tools have one name.
    """
    tools = [
        _chat_tool(tool["name"], tool["description"], tool["parameters"], tool["strict"])
        for tool in requested.functions
    ]
    for specs in listed.values():
        tools += [_chat_tool(spec.name, spec.description, spec.schema, None) for spec in specs]
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"tools: there are two tools named {shortened(duplicate)!r}.", "tools")
    return tools


def _chat_tool(
    name: str, description: str | None, parameters: Any, strict: bool | None
) -> dict[str, Any]:
    optional = {"description": description, "parameters": parameters, "strict": strict}
    given = {field: value for field, value in optional.items() if value is not None}
    return {"type": "function", "function": {"name": name, **given}}
