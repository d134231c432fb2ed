"""How much a body may hold, counted before anything looks closer at it.

A few megabytes of JSON can hold millions of values; validating each of them, or making an error of
each, would keep the event loop from every other request for seconds.
"""

from typing import Any

from frontend.errors import BadRequest, shortened

# Values in a body, names of fields included, besides token ids.
MAX_VALUES = 100_000

# Lists of token ids: as long as the body, and looked at without a loop in Python.
_TOKEN_FIELDS = frozenset({"prompt", "tokens", "allowed_token_ids"})


def check_sizes(parsed: dict[str, Any]) -> None:
    """BadRequest, naming the field, for a body that holds too many values."""
    left = MAX_VALUES - len(parsed)
    if left < 0:
        raise BadRequest(f"The request holds more than {MAX_VALUES} fields.", "body")
    for field, value in parsed.items():
        left = _count(value, left, field in _TOKEN_FIELDS)
        if left < 0:
            name = shortened(field)
            raise BadRequest(f"{name}: the request holds more than {MAX_VALUES} values.", name)


def _count(value: Any, left: int, are_ids_free: bool) -> int:
    """What is left of an allowance after the values in `value`; negative if it does not do."""
    pending = [value]
    while pending and left >= 0:
        item = pending.pop()
        if isinstance(item, dict):
            left -= 2 * len(item)
            inner = list(item.values()) if left >= 0 else []
        elif isinstance(item, list):
            if are_ids_free and item and set(map(type, item)) == {int}:
                continue
            left -= len(item)
            inner = item if left >= 0 else []
        else:
            continue
        pending.extend([value for value in inner if isinstance(value, (dict, list))])
    return left
