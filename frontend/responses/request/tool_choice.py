"""Parse the tool choice of a request."""

from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.responses import Item

_CHOICE_FIELDS = {"function": ("name",), "mcp": ("server_label", "name")}


def read_tool_choice(choice: str | Item | None) -> str | Item:
    """Return the choice as responses show it, without unknown fields.

    Raises BadRequest if it is invalid.
    """
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    kind = choice.get("type")
    if isinstance(kind, str) and kind in _CHOICE_FIELDS:
        return {"type": kind, **{field: _name(choice, field) for field in _CHOICE_FIELDS[kind]}}
    mode = choice.get("mode")
    tools: Any = choice.get("tools")
    if kind == "allowed_tools" and mode in ("auto", "required") and _are_objects(tools):
        allowed = [{"type": _name(tool, "type"), "name": _name(tool, "name")} for tool in tools]
        return {"type": kind, "mode": mode, "tools": allowed}
    raise BadRequest(
        "tool_choice: must be none, auto, required, a function or a server's tool by its name, or"
        " allowed tools, with mode and tools.",
        "tool_choice",
    )


def _are_objects(tools: Any) -> bool:
    return isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)


def _name(choice: Item, field: str) -> str:
    value = choice.get(field)
    if not isinstance(value, str):
        raise BadRequest(f"tool_choice: {field} must be a string.", "tool_choice")
    return value


def chat_tool_choice(
    choice: str | Item | None, tools: list[dict[str, Any]]
) -> tuple[Any, list[dict[str, Any]]]:
    """Return the tool choice as a chat takes it, and the tools that it allows.

    Raises BadRequest if the chosen tools are missing.
    """
    choice = read_tool_choice(choice)
    if not tools and choice not in ("none", "auto"):
        raise BadRequest("tool_choice: there are no tools to choose from.", "tool_choice")
    if isinstance(choice, str):
        return choice, tools
    if choice["type"] != "allowed_tools":
        return {"type": "function", "function": {"name": choice["name"]}}, tools
    names = {tool["name"] for tool in choice["tools"]}
    allowed = [tool for tool in tools if tool["function"]["name"] in names]
    if not allowed:
        raise BadRequest("tool_choice: none of the allowed tools is among tools.", "tool_choice")
    return choice["mode"], allowed
