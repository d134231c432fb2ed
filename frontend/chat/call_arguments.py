"""Read the arguments of earlier tool calls, which models may have written badly."""

import json
import logging
import re
from typing import Any

from headrace.frontend.chat.tolerant_json import MAX_DEPTH, read_object
from headrace.frontend.limited_log import LimitedLog

# Some clients send a text within a text.
_MAX_UNWRAPPED = 2
_FENCE = re.compile(r"\s*```\w*\s*")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_log = LimitedLog(logging.getLogger("headrace.frontend.chat"))


def call_arguments(text: str | None) -> dict[str, Any]:
    """Return a call's arguments as the object that chat templates expect.

    Arguments that are malformed or cut short are repaired as far as they can be read; what is not
    an object, such as a list or plain text, becomes an empty one, and the log says so.
    """
    if text is None or not text.strip():
        return {}
    value = _read(text)
    if isinstance(value, dict):
        is_clean = _ESCAPED_SURROGATE.search(text) is None
        return value if is_clean else _without_surrogates(value)
    if value is not None:
        _log.warning("the arguments of a tool call in a chat's history are no object: {} instead")
    return {}


def _read(text: str) -> Any:
    """Return the value of a text; False if it cannot be read."""
    for _ in range(_MAX_UNWRAPPED + 1):
        value = _parse(text)
        if not isinstance(value, str):
            return value
        text = value
    return False


def _parse(text: str) -> Any:
    try:
        value = json.loads(text.lstrip("\ufeff"), strict=False)
    except (ValueError, RecursionError):
        value = _MALFORMED
    if value is _MALFORMED or _is_too_deep(value):
        repaired = read_object(_FENCE.sub("", text, count=1) if text.lstrip()[:1] == "`" else text)
        return False if repaired is None else repaired
    return value


_MALFORMED: Any = object()


def _is_too_deep(value: Any) -> bool:
    """Return whether a value is nested deeper than templates can write it."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    """Return the objects and arrays directly within a value."""
    if not isinstance(value, (dict, list)):
        return []
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, (dict, list))]


def _without_surrogates(value: Any) -> Any:
    """Return a value in whose texts U+FFFD stands for surrogates, which no tokenizer takes."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
