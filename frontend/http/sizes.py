"""How much a body may hold, counted before anything looks closer at it.

A few megabytes of JSON can hold millions of values; validating each of them, or making an error of
each, would take seconds, and merely reading them half a second in which nothing else runs.
"""

from typing import Any

from headrace.frontend.errors import BadRequest, shortened

# Values in a body, names of fields included, besides token ids.
MAX_VALUES = 100_000

# Token ids in a body, all prompts together.
MAX_TOKEN_IDS = 1_000_000

# Bytes that are looked at in one go.
_PIECE = 64 * 1024

# Lists of token ids: as long as the body, and looked at without a loop in Python.
_TOKEN_FIELDS = frozenset({"prompt", "tokens", "allowed_token_ids"})


def check_written(data: bytes) -> None:
    """BadRequest for JSON that can be seen to hold too many values before it is read."""
    if not _is_too_large(*(data.count(mark) for mark in (b'"', b"[", b"{", b","))):
        return  # whatever of it stands in strings
    marks = [0, 0, 0, 0]
    backslash, in_string = b"", False
    for start in range(0, len(data), _PIECE):
        piece = backslash + data[start : start + _PIECE]
        # Half an escape goes with the next piece.
        backslash = b"\\" * ((len(piece) - len(piece.rstrip(b"\\"))) % 2)
        piece = piece[: len(piece) - len(backslash)]
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        marks[0] += len(parts) - 1
        for place, mark in enumerate((b"[", b"{", b","), start=1):
            marks[place] += outside.count(mark)
        if _is_too_large(*marks):
            raise BadRequest(
                f"The request holds more than {MAX_VALUES} values, or {MAX_TOKEN_IDS} token ids.",
                "body",
            )


def _is_too_large(quotes: int, lists: int, objects: int, commas: int) -> bool:
    """Whether these marks make more values than any body may hold. The body itself is none."""
    return quotes // 2 + lists + objects > MAX_VALUES + 1 or commas >= MAX_VALUES + MAX_TOKEN_IDS


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
