"""Parse the tool choice of a request."""

from typing import Any, NamedTuple

from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.responses.request.client_tools import ClientTool, flat_name
from headrace.frontend.schemas.limits import limit_of
from headrace.frontend.schemas.responses import Item

ChatTool = dict[str, Any]

# The fields of a choice that name a tool, by its type, and whether they must be there.
_CHOICE_FIELDS = {
    "function": {"name": True, "namespace": False},
    "custom": {"name": True, "namespace": False},
    "mcp": {"server_label": True, "name": False},
    "namespace": {"name": True},
}


def read_tool_choice(choice: str | Item | None) -> str | Item:
    """Return the choice as responses show it, without unknown fields.

    Raises BadRequest if it is invalid, or forces a tool that this server cannot run.
    """
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    kind = choice.get("type")
    if kind == "allowed_tools":
        return _allowed_tools(choice)
    if isinstance(kind, str) and kind in _CHOICE_FIELDS and kind != "namespace":
        return _named_tool(choice)
    if isinstance(kind, str):
        raise BadRequest(
            f"tool_choice: this server cannot run tools of type {shortened(kind)!r}.",
            "tool_choice",
        )
    raise _invalid()


def _named_tool(choice: Item) -> Item:
    fields = _CHOICE_FIELDS[choice["type"]]
    named = {
        field: _name(choice, field)
        for field, is_needed in fields.items()
        if is_needed or choice.get(field) is not None
    }
    return {"type": choice["type"], **named}


def _allowed_tools(choice: Item) -> Item:
    inner: Any = choice.get("allowed_tools", choice)  # chats have mode and tools in an object
    mode, tools = (inner.get("mode"), inner.get("tools")) if isinstance(inner, dict) else (0, 0)
    if (
        mode not in ("auto", "required")
        or not isinstance(tools, list)
        or len(tools) > limit_of("max_tools")
    ):
        raise _invalid()
    return {"type": "allowed_tools", "mode": mode, "tools": [_allowed_tool(tool) for tool in tools]}


def _allowed_tool(tool: Any) -> Item:
    """Return an allowed tool; one that cannot be run has only its type."""
    if not isinstance(tool, dict):
        raise _invalid()
    kind = _name(tool, "type")
    return _named_tool(tool) if kind in _CHOICE_FIELDS else {"type": kind}


def _invalid() -> BadRequest:
    return BadRequest(
        "tool_choice: must be none, auto, required, a function, a custom tool or a server's tool by"
        " its name, or allowed tools, with mode and tools.",
        "tool_choice",
    )


def _name(choice: Item, field: str) -> str:
    value = choice.get(field)
    if not isinstance(value, str):
        raise BadRequest(f"tool_choice: {field} must be a string.", "tool_choice")
    return value


class OfferedTools(NamedTuple):
    """The tools that the model is offered.

    chat: as a chat takes them. client: those of them that the client runs. labels: the label of the
        others' server. Both by the name of the function.
    """

    chat: list[ChatTool]
    client: dict[str, ClientTool]
    labels: dict[str, str]


def chat_tool_choice(
    choice: str | Item | None, offered: OfferedTools
) -> tuple[Any, list[ChatTool]]:
    """Return the tool choice as a chat takes it, and the tools that it allows.

    Raises BadRequest if the chosen tools are missing.
    """
    choice = read_tool_choice(choice)
    if isinstance(choice, str):
        if not offered.chat and choice not in ("none", "auto"):
            raise BadRequest("tool_choice: there are no tools to choose from.", "tool_choice")
        return choice, offered.chat
    if choice["type"] == "allowed_tools":
        allowed: set[str] = set().union(*(_names(tool, offered) for tool in choice["tools"]))
        mode = choice["mode"]
    else:
        allowed = _names(choice, offered)
        mode = "required"
        if len(allowed) == 1 and "name" in choice:
            return {"type": "function", "function": {"name": allowed.pop()}}, offered.chat
    tools = [tool for tool in offered.chat if tool["function"]["name"] in allowed]
    if tools or mode == "auto":
        return mode if tools else "none", tools
    raise BadRequest("tool_choice: none of the allowed tools can be run.", "tool_choice")


def _names(choice: Item, offered: OfferedTools) -> set[str]:
    """Return the names of the functions that a choice means.

    Raises BadRequest if a tool that can be run is missing, or if the choice means several tools of
    different namespaces.
    """
    kind, name, found = choice["type"], choice.get("name"), set()
    if kind == "mcp":
        label = choice["server_label"]
        found = {
            each
            for each, of_server in offered.labels.items()
            if of_server == label and name in (None, each)
        }
    elif kind == "namespace":
        found = {each for each, tool in offered.client.items() if tool.namespace == name}
    elif kind in _CHOICE_FIELDS:
        found = _named(str(name), choice.get("namespace"), offered)
    else:
        return found
    if not found:
        shown = shortened(str(name or choice["server_label"]))
        raise BadRequest(f"tool_choice: there is no tool {shown!r} among tools.", "tool_choice")
    return found


def _named(name: str, namespace: str | None, offered: OfferedTools) -> set[str]:
    flat = flat_name(namespace, name)
    if flat in offered.client or (flat in offered.labels and namespace is None):
        return {flat}
    found = {each for each, tool in offered.client.items() if tool.name == name}
    if namespace is not None or len(found) < 2:
        return found if namespace is None else set()
    raise BadRequest(
        f"tool_choice: {shortened(name)!r} is in several namespaces; give one as namespace.",
        "tool_choice",
    )
