"""Read the fields of input items and tools; errors name the field."""

from typing import Any

from headrace.frontend.errors import BadRequest, InvalidBody, shortened
from headrace.frontend.schemas.limits import limit_of
from headrace.frontend.schemas.responses import Item

MAX_NAME_CHARS = 256
_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})


def malformed(where: str, reason: str) -> InvalidBody:
    """Return the error for a field of the wrong type, or a missing one."""
    return InvalidBody(f"body.{where}: {reason}.", f"body.{where}")


def read_text(item: Item, field: str, where: str) -> str:
    """Return a field that must be a string. Raises InvalidBody if it is not."""
    value = item.get(field)
    if not isinstance(value, str):
        raise malformed(f"{where}.{field}", "must be a string")
    return value


def read_optional_text(item: Item, field: str, where: str) -> str | None:
    """Return a field that may be a string. Raises InvalidBody if it is something else."""
    return None if item.get(field) is None else read_text(item, field, where)


def read_name(item: Item, field: str, where: str) -> str:
    """Return a field that must be a name or an id. Raises ApiError if it is not."""
    value = read_text(item, field, where)
    if not 0 < len(value) <= MAX_NAME_CHARS:
        raise BadRequest(
            f"{where}.{field}: must have 1 to {MAX_NAME_CHARS} characters.", f"{where}.{field}"
        )
    return value


def read_optional_name(item: Item, field: str, where: str) -> str | None:
    """Return a field that may be a name. Raises ApiError if it is something else."""
    return None if item.get(field) is None else read_name(item, field, where)


def read_list(item: Item, field: str, where: str) -> list[Any]:
    """Return a field that must be a list of bounded length. Raises ApiError if it is not."""
    value = item.get(field)
    if not isinstance(value, list):
        raise malformed(f"{where}.{field}", "must be a string or a list")
    if len(value) > (most := limit_of("max_content_parts")):
        raise BadRequest(f"{where}.{field}: holds more than {most}.", f"{where}.{field}")
    return value


def read_object(item: Item, field: str, where: str) -> Item:
    """Return a field that must be an object. Raises InvalidBody if it is not."""
    value = item.get(field)
    if not isinstance(value, dict):
        raise malformed(f"{where}.{field}", "must be an object")
    return value


def read_part(part: Any, kind: str, where: str) -> Item:
    """Return a part of a content as a text of this kind, or as a refusal.

    Raises ApiError if it is neither.
    """
    if isinstance(part, str):
        part = {"type": kind, "text": part}
    if not isinstance(part, dict):
        raise malformed(where, "must be an object")
    given = read_text(part, "type", where)
    if given == "refusal":
        return {"type": "refusal", "refusal": read_text(part, "refusal", where)}
    if given not in _TEXT_PARTS:
        raise BadRequest(
            f"{where}.type: this model takes text, not {shortened(given)!r}.", f"{where}.type"
        )
    text = {"type": kind, "text": read_text(part, "text", where)}
    return {**text, "annotations": []} if kind == "output_text" else text


def read_output(item: Item, where: str, field: str = "output") -> str:
    """Return the output of a call, a text or parts of one. Raises ApiError if it is neither."""
    output = item.get(field)
    if output is None or isinstance(output, str):
        return output or ""
    parts = read_list(item, field, where)
    return "".join(
        part_text(read_part(part, "input_text", f"{where}.{field}.{index}"))
        for index, part in enumerate(parts)
    )


def part_text(part: Item) -> str:
    """Return the text of a part that has been read."""
    return str(part.get("text", part.get("refusal", "")))
