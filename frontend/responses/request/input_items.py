"""Parse the items of a request's input: check them and complete their fields.

Clients send back the items of earlier responses, with fields that their libraries add; unknown
fields are dropped, and items that say nothing to a model are left out.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.responses.output.ids import input_id
from headrace.frontend.responses.request.item_fields import (
    malformed,
    part_text,
    read_list,
    read_name,
    read_optional_text,
    read_part,
    read_text,
)
from headrace.frontend.responses.request.requested_tools import TOOL_ITEMS
from headrace.frontend.responses.request.sealed_text import unseal
from headrace.frontend.responses.request.tool_items import TOOL_PARSERS
from headrace.frontend.responses.request.unknown_item_fields import unknown_item_fields
from headrace.frontend.schemas.limits import limit_of
from headrace.frontend.schemas.responses import Item
from headrace.frontend.schemas.unknown_fields import MAX_NOTED
from headrace.frontend.structured.constraint import check_depth

_ROLES = ("user", "assistant", "system", "developer")


class ReadItems(NamedTuple):
    """The complete items of an input.

    ignored: the names of those that are left out, and of unknown fields of the others.
    """

    items: list[Item]
    ignored: list[str]


def references(value: str | list[Item] | None) -> list[str]:
    """Return the ids of stored items that the input refers to."""
    if not isinstance(value, list):
        return []
    return [
        read_text(item, "id", f"input.{index}")
        for index, item in enumerate(value)
        if _kind(item, f"input.{index}") == "item_reference"
    ]


def read_items(
    value: str | list[Item] | None,
    response_id: str,
    referenced: Mapping[str, Item],
    field: str = "input",
) -> ReadItems:
    """Return the complete items.

    referenced: the stored items that were found, by id. field: of the request, for errors.
    Raises ApiError, which names the field, if an item is invalid.
    """
    if not isinstance(value, list):
        value = [{"role": "user", "content": value}] if value else []
    items: list[Item] = []
    ignored: dict[str, None] = {}
    for index, item in enumerate(value):
        read = _parse_item(item, f"{field}.{index}", response_id, index, referenced)
        if read is not None:
            items.append(read)
            if read["type"] == item.get("type", "message") and len(ignored) < MAX_NOTED:
                ignored |= dict.fromkeys(unknown_item_fields(item, field))
        elif item["type"] not in TOOL_ITEMS:
            ignored[f"{field}.{item['type']}"] = None
    return ReadItems(items, list(ignored))


def _parse_item(
    item: Item, where: str, response_id: str, index: int, referenced: Mapping[str, Item]
) -> Item | None:
    """Return the complete item; None if it is left out."""
    kind = _kind(item, where)
    if kind == "item_reference":
        item_id = read_text(item, "id", where)
        found = referenced.get(item_id)
        if found is None:
            shown = shortened(item_id)
            raise BadRequest(f"{where}.id: no item {shown!r} is stored.", f"{where}.id")
        return found
    if kind != "message":
        check_depth(item, where)
    parse = _PARSERS.get(kind, _unknown)
    parsed = parse(item, where)
    if parsed is None:
        return None
    kind = parsed.pop("type", kind)
    item_id = read_optional_text(item, "id", where) or input_id(response_id, kind, index)
    return {"id": item_id, "type": kind, **parsed}


def _kind(item: Item, where: str) -> str:
    """Return an item's type; without one it is a message, or a reference if it has only an id."""
    kind = item.get("type")
    if kind is None:
        return "item_reference" if set(item) <= {"id", "type"} else "message"
    return read_name(item, "type", where)


def _message(item: Item, where: str) -> Item:
    role = read_text(item, "role", where)
    if role not in _ROLES:
        raise BadRequest(f"{where}.role: must be one of {', '.join(_ROLES)}.", f"{where}.role")
    kind = "output_text" if role == "assistant" else "input_text"
    content = item.get("content")
    if content is None and role == "assistant":
        content = []
    parts = [content] if isinstance(content, str) else _content(content, where)
    content_parts = [
        read_part(part, kind, f"{where}.content.{index}" if isinstance(content, list) else where)
        for index, part in enumerate(parts)
    ]
    return {"role": role, "status": "completed", "content": content_parts}


def _content(content: Any, where: str) -> list[Any]:
    return read_list({"content": content}, "content", where)


def _reasoning(item: Item, where: str) -> Item:
    """Parse reasoning: its content as this server writes it, and the summary that others write."""
    read: Item = {"summary": _texts(item, "summary", where, "summary_text")}
    if item.get("content") is not None:
        read["content"] = _texts(item, "content", where, "reasoning_text")
    elif (text := unseal(read_optional_text(item, "encrypted_content", where))) is not None:
        read["content"] = [{"type": "reasoning_text", "text": text}]
    return {**read, "status": "completed"}


def _compaction(item: Item, where: str) -> Item | None:
    """Parse what a conversation was compacted to; None if another server has encrypted it."""
    sealed = read_optional_text(item, "encrypted_content", where)
    if unseal(sealed) is None:
        return None
    return {"type": "compaction", "encrypted_content": sealed}


def _texts(item: Item, field: str, where: str, kind: str) -> list[Item]:
    parts = [] if item.get(field) is None else read_list(item, field, where)
    read = []
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise malformed(f"{where}.{field}.{index}", "must be an object")
        read.append({"type": kind, "text": read_text(part, "text", f"{where}.{field}.{index}")})
    return read


def _mcp_call(item: Item, where: str) -> Item:
    return {
        "server_label": read_name(item, "server_label", where),
        "name": read_name(item, "name", where),
        "arguments": read_text(item, "arguments", where),
        "output": read_optional_text(item, "output", where),
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
        text = "\n".join(part_text(read_part(part, "input_text", where)) for part in text)
    if not isinstance(text, str):
        raise malformed(where, "must be a string, or an object with a content")
    return {"type": "mcp_tool_execution_error", "content": text}


def _mcp_list_tools(item: Item, where: str) -> Item:
    """Keep the item without its tools: they are listed anew."""
    return {"server_label": read_name(item, "server_label", where), "tools": []}


def _unknown(item: Item, where: str) -> Item | None:
    """Read an item of a type that is not known: what it says, as a message; None if nothing."""
    content, role = item.get("content"), item.get("role")
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list) or len(parts) > limit_of("max_content_parts"):
        return None
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    said = [text for text in texts if isinstance(text, str)]
    if not said:
        return None
    message = {"role": role if role in _ROLES else "user", "content": said}
    return {"type": "message", **_message(message, where)}


_PARSERS: dict[str, Callable[[Item, str], Item | None]] = {
    "message": _message,
    "reasoning": _reasoning,
    "compaction": _compaction,
    "compaction_summary": _compaction,
    "context_compaction": _compaction,
    "mcp_call": _mcp_call,
    "mcp_list_tools": _mcp_list_tools,
    **TOOL_PARSERS,
}
