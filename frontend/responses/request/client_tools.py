"""Read the tools that a client runs: functions, custom tools, namespaces, searches for tools."""

from dataclasses import dataclass
from typing import Any, Literal

from headrace.frontend.responses.request import custom_input
from headrace.frontend.responses.request.item_fields import (
    malformed,
    read_list,
    read_name,
    read_object,
    read_optional_text,
)
from headrace.frontend.schemas.responses import Item
from headrace.frontend.structured.constraint import check_depth

SEPARATOR = "__"

# The name by which a model searches for tools.
TOOL_SEARCH = "tool_search"

CallKind = Literal["function_call", "custom_tool_call", "tool_search_call"]


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A tool of the client, which the model sees as a function.

    call_kind: the type of the items that hold its calls.
    name, namespace: as the client wrote them.
    """

    call_kind: CallKind
    name: str
    namespace: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def function_name(self) -> str:
        """The name that the model sees."""
        return flat_name(self.namespace, self.name)


def flat_name(namespace: str | None, name: str) -> str:
    """Return the name of a function, unique among those of all namespaces."""
    return name if not namespace else f"{namespace}{SEPARATOR}{name}"


def read_client_tool(
    tool: Item, where: str, ignored: list[str], namespace: str | None = None
) -> tuple[ClientTool, Item]:
    """Return a function or a custom tool, and how responses show it.

    namespace: the one that holds it.

    ignored: gets the names of what has no effect.
    Raises ApiError, which names the field, if the tool is invalid.
    """
    read = _custom if tool.get("type") == "custom" else _function
    return read(tool, where, ignored, namespace)


def read_tool_search(tool: Item, where: str, ignored: list[str]) -> tuple[ClientTool, Item]:
    """Return a search for tools that the client runs, and how responses show it.

    Raises ApiError, which names the field, if it is invalid.
    """
    _, shown = _function({**tool, "name": TOOL_SEARCH}, where, ignored, None)
    description, parameters = shown["description"], shown["parameters"]
    read = ClientTool("tool_search_call", TOOL_SEARCH, None, description, parameters)
    shown = {"type": "tool_search", "execution": "client", "description": description}
    return read, {**shown, "parameters": parameters}


def read_namespace(tool: Item, where: str, ignored: list[str]) -> tuple[list[ClientTool], Item]:
    """Return the tools of a namespace, and how responses show it.

    Raises ApiError, which names the field, if one is invalid.
    """
    name = read_name(tool, "name", where)
    description = read_optional_text(tool, "description", where)
    tools: list[ClientTool] = []
    echo: list[Item] = []
    for index, each in enumerate(read_list(tool, "tools", where)):
        place = f"{where}.tools.{index}"
        if not isinstance(each, dict):
            raise malformed(place, "must be an object")
        if each.get("type") not in ("function", "custom"):
            ignored.append(f"tools.{each.get('type')}")
            continue
        read, shown = read_client_tool(each, place, ignored, name)
        tools.append(read)
        echo.append(shown)
    shown = {"type": "namespace", "name": name, "description": description or "", "tools": echo}
    return tools, shown


_FUNCTION_FIELDS = frozenset({"type", "name", "description", "parameters", "strict", "execution"})
_CUSTOM_FIELDS = frozenset({"type", "name", "description", "format"})


def _function(
    tool: Item, where: str, ignored: list[str], namespace: str | None
) -> tuple[ClientTool, Item]:
    note_unknown_fields(tool, _FUNCTION_FIELDS, ignored)
    parameters = None if tool.get("parameters") is None else read_object(tool, "parameters", where)
    check_depth(parameters, f"{where}.parameters")
    strict = tool.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise malformed(f"{where}.strict", "must be a boolean")
    name = read_name(tool, "name", where)
    description = read_optional_text(tool, "description", where)
    shown = {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": parameters,
        "strict": strict,
    }
    return ClientTool("function_call", name, namespace, description, parameters, strict), shown


def _custom(
    tool: Item, where: str, ignored: list[str], namespace: str | None
) -> tuple[ClientTool, Item]:
    note_unknown_fields(tool, _CUSTOM_FIELDS, ignored)
    name = read_name(tool, "name", where)
    description = read_optional_text(tool, "description", where)
    syntax, definition = custom_input.read_format(tool, where)
    shown: Item = {"type": "custom", "name": name, "description": description}
    seen_description = description
    if syntax is not None:
        shown["format"] = {"type": "grammar", "syntax": syntax, "definition": definition}
    if syntax == "lark":
        # In JSON the input's characters are escaped, which a grammar of the input knows nothing of.
        ignored.append("tools.format")
        seen_description = f"{description or ''}\n\nGrammar (Lark) of the input:\n{definition}"
    pattern = definition if syntax == "regex" else None
    read = ClientTool(
        "custom_tool_call",
        name,
        namespace,
        seen_description,
        custom_input.parameters(pattern),
        strict=None if pattern is None else True,
    )
    return read, shown


def note_unknown_fields(tool: Item, known: frozenset[str], ignored: list[str]) -> None:
    """Note the fields of a tool that have a value and no effect."""
    ignored += [
        f"tools.{field}"
        for field, value in tool.items()
        if field not in known and value is not None
    ]
