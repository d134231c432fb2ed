"""Limits of how many values a body may hold, checked before it is parsed or validated.

A few megabytes of JSON can hold millions of values: validating each, or making an error of each,
would take seconds, and merely parsing them half a second in which nothing else runs.
"""

from typing import Any

from headrace.frontend.errors import BadRequest, InvalidBody, shortened
from headrace.frontend.schemas.limits import current_limits, limit_of, nesting_depth

# Bytes that are scanned at once.
_PIECE = 64 * 1024

# Lists of token ids may be as long as the body: they are checked without a loop in Python.
_TOKEN_FIELDS = frozenset({"prompt", "input", "tokens", "allowed_token_ids"})


def check_encoded_size(data: bytes) -> None:
    """Check the number of values in encoded JSON without parsing it.

    Raises BadRequest if there are too many.
    """
    if not _exceeds_limits(*(data.count(char) for char in (b'"', b"[", b"{", b","))):
        return  # even if none of these characters are inside strings
    counts = [0, 0, 0, 0]
    backslash, in_string = b"", False
    for start in range(0, len(data), _PIECE):
        piece = backslash + data[start : start + _PIECE]
        # Half an escape goes with the next piece.
        backslash = b"\\" * ((len(piece) - len(piece.rstrip(b"\\"))) % 2)
        piece = piece[: len(piece) - len(backslash)]
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        counts[0] += len(parts) - 1
        for index, char in enumerate((b"[", b"{", b","), start=1):
            counts[index] += outside.count(char)
        if _exceeds_limits(*counts):
            limits = current_limits()
            raise BadRequest(
                f"The request holds more than {limits.max_json_values} values, or "
                f"{limits.max_token_ids} token ids.",
                "body",
            )


def _exceeds_limits(quotes: int, lists: int, objects: int, commas: int) -> bool:
    """Return whether these counts mean more values than a body may hold, itself not counted."""
    limits = current_limits()
    values, token_ids = limits.max_json_values, limits.max_token_ids
    return quotes // 2 + lists + objects > values + 1 or commas >= values + token_ids


def check_value_count(parsed: dict[str, Any]) -> None:
    """Check the number of values in a parsed body.

    Raises BadRequest, naming the field, if there are too many.
    """
    most = limit_of("max_json_values")
    left = most - len(parsed)
    if left < 0:
        raise BadRequest(f"The request holds more than {most} fields.", "body")
    for field, value in parsed.items():
        left = _count(value, left, field in _TOKEN_FIELDS)
        if left < 0:
            name = shortened(field)
            raise BadRequest(f"{name}: the request holds more than {most} values.", name)


def _count(value: Any, left: int, are_ids_free: bool) -> int:
    """Subtract the number of values in `value` from a limit; negative if exceeded."""
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


def check_depth(parsed: dict[str, Any], brackets: int) -> None:
    """Check how deep a parsed body is nested, itself included. Call it after `check_value_count`.

    brackets: how many opening brackets its JSON has at most; few cannot be nested deeply.
    Raises InvalidBody, naming the field, if that is too deep.
    """
    most = limit_of("max_json_depth")
    if brackets <= most:
        return
    for field, value in parsed.items():
        if nesting_depth(value, most) > most - 1:
            name = f"body.{shortened(field)}"
            raise InvalidBody(f"{name}: nested more than {most} deep.", name)
