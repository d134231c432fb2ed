"""Parse the items of a request's input: check them and complete their fields.

Clients send back the items of earlier responses, with fields that their libraries add; unknown
fields are dropped.
"""

from collections.abc import Callable, Mapping
from typing import Any

from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.responses.output.ids import PREFIXES, input_id
from headrace.frontend.schemas.responses import Item

MAX_PARTS = 10_000
_MAX_NAME_CHARS = 256
_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})


def references(value: str | list[Item]) -> list[str]:
    """Return the ids of stored items that the input refers to."""
    if isinstance(value, str):
        return []
    return [
        _text(item, "id", f"input.{index}")
        for index, item in enumerate(value)
        if _kind(item, f"input.{index}") == "item_reference"
    ]


def read_items(
    value: str | list[Item], response_id: str, referenced: Mapping[str, Item]
) -> list[Item]:
    """Return the complete items.

    referenced: the stored items that were found, by id.
    Raises BadRequest, which names the field, if an item is invalid.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return [
        _parse_item(item, f"input.{index}", response_id, index, referenced)
        for index, item in enumerate(value)
    ]


def _parse_item(
    item: Item, where: str, response_id: str, index: int, referenced: Mapping[str, Item]
) -> Item:
    kind = _kind(item, where)
    if kind == "item_reference":
        item_id = _text(item, "id", where)
        found = referenced.get(item_id)
        if found is None:
            shown = shortened(item_id)
            raise BadRequest(f"{where}.id: no item {shown!r} is stored.", f"{where}.id")
        return found
    parse = _PARSERS.get(kind)
    if parse is None:
        raise BadRequest(
            f"{where}.type: items of type {shortened(kind)!r} are not supported.", f"{where}.type"
        )
    item_id = _optional_text(item, "id", where) or input_id(response_id, kind, index)
    return {"id": item_id, "type": kind, **parse(item, where)}


def _kind(item: Item, where: str) -> str:
    """Return an item's type; without one it is a message, or a reference if it has only an id."""
    kind = item.get("type")
    if kind is None:
        return "item_reference" if set(item) <= {"id", "type"} else "message"
    return _text(item, "type", where)


def _message(item: Item, where: str) -> Item:
    role = _text(item, "role", where)
    if role not in _ROLES:
        raise BadRequest(f"{where}.role: must be one of {', '.join(_ROLES)}.", f"{where}.role")
    kind = "output_text" if role == "assistant" else "input_text"
    content = item.get("content")
    parts = [content] if isinstance(content, str) else _list(item, "content", where)
    content_parts = [
        _part(part, kind, f"{where}.content.{index}" if isinstance(content, list) else where)
        for index, part in enumerate(parts)
    ]
    return {"role": role, "status": "completed", "content": content_parts}


def _part(part: Any, kind: str, where: str) -> Item:
    if isinstance(part, str):
        part = {"type": kind, "text": part}
    if not isinstance(part, dict):
        raise BadRequest(f"{where}: must be an object.", where)
    given = _text(part, "type", where)
    if given == "refusal":
        return {"type": "refusal", "refusal": _text(part, "refusal", where)}
    if given not in _TEXT_PARTS:
        raise BadRequest(
            f"{where}.type: this model takes text, not {shortened(given)!r}.", f"{where}.type"
        )
    text = {"type": kind, "text": _text(part, "text", where)}
    return {**text, "annotations": []} if kind == "output_text" else text


def _function_call(item: Item, where: str) -> Item:
    return {
        "call_id": _name(item, "call_id", where),
        "name": _name(item, "name", where),
        "arguments": _text(item, "arguments", where),
        "status": "completed",
    }


def _function_call_output(item: Item, where: str) -> Item:
    output = item.get("output")
    if not isinstance(output, str):
        parts = _list(item, "output", where)
        output = "".join(
            _part(part, "input_text", f"{where}.output.{index}").get("text", "")
            for index, part in enumerate(parts)
        )
    call_id = _name(item, "call_id", where)
    return {"call_id": call_id, "output": output, "status": "completed"}


def _reasoning(item: Item, where: str) -> Item:
    """Parse reasoning: its content as this server writes it, and the summary that others write."""
    read: Item = {"summary": _texts(item, "summary", where, "summary_text")}
    if item.get("content") is not None:
        read["content"] = _texts(item, "content", where, "reasoning_text")
    return {**read, "status": "completed"}


def _texts(item: Item, field: str, where: str, kind: str) -> list[Item]:
    parts = [] if item.get(field) is None else _list(item, field, where)
    read = []
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise BadRequest(f"{where}.{field}.{index}: must be an object.", f"{where}.{field}")
        read.append({"type": kind, "text": _text(part, "text", f"{where}.{field}.{index}")})
    return read


def _mcp_call(item: Item, where: str) -> Item:
    return {
        "server_label": _name(item, "server_label", where),
        "name": _name(item, "name", where),
        "arguments": _text(item, "arguments", where),
        "output": _optional_text(item, "output", where),
        "error": _call_error(item.get("error"), f"{where}.error"),
        "status": "completed",
    }


def _call_error(error: Any, where: str) -> Item | None:
    """Normalize a call's error; other servers write a message, or the content in parts."""
    if error is None:
        return None
    text = error
    if isinstance(error, dict):
        content, message = error.get("content"), error.get("message")
        text = message if content is None else content
    if isinstance(text, list):
        text = "\n".join(_part(part, "input_text", where).get("text", "") for part in text)
    if not isinstance(text, str):
        raise BadRequest(f"{where}: must be a string, or an object with a content.", where)
    return {"type": "mcp_tool_execution_error", "content": text}


def _mcp_list_tools(item: Item, where: str) -> Item:
    """Keep the item without its tools: they are listed anew."""
    return {"server_label": _name(item, "server_label", where), "tools": []}


_PARSERS: dict[str, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
    "mcp_call": _mcp_call,
    "mcp_list_tools": _mcp_list_tools,
}
assert set(_PARSERS) == set(PREFIXES)


def _text(item: Item, field: str, where: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise BadRequest(f"{where}.{field}: must be a string.", f"{where}.{field}")
    return value


def _optional_text(item: Item, field: str, where: str) -> str | None:
    return None if item.get(field) is None else _name(item, field, where, None)


def _name(item: Item, field: str, where: str, max_chars: int | None = _MAX_NAME_CHARS) -> str:
    value = _text(item, field, where)
    if max_chars is not None and not 0 < len(value) <= max_chars:
        raise BadRequest(
            f"{where}.{field}: must have 1 to {max_chars} characters.", f"{where}.{field}"
        )
    return value


def _list(item: Item, field: str, where: str) -> list[Any]:
    value = item.get(field)
    if not isinstance(value, list):
        raise BadRequest(f"{where}.{field}: must be a string or a list.", f"{where}.{field}")
    if len(value) > MAX_PARTS:
        raise BadRequest(f"{where}.{field}: holds more than {MAX_PARTS}.", f"{where}.{field}")
    return value
