"""Serve tools of free-form input as functions of one string.

A model calls such a tool with {"input": "…"}; the client sees the text of the string alone.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.responses.request.item_fields import read_object, read_text
from headrace.frontend.schemas.responses import Item

FIELD = "input"
_BEGINNING = re.compile(rf'\s*\{{\s*"{FIELD}"\s*:\s*"')
# Arguments that have not begun as they should after this many characters are read at their end.
_MAX_BEGINNING_CHARS = 64
# Plain text, or an escape: two that are one character, half of those alone, any other.
_UNIT = re.compile(
    r"""[^"\\]+
    | \\u [dD][89abAB][0-9a-fA-F]{2} \\u [dD][c-fC-F][0-9a-fA-F]{2}
    | \\u [dD][89abAB][0-9a-fA-F]{2} (?= [^\\] | \\[^u] | .{6})
    | \\u (?![dD][89abAB]) [0-9a-fA-F]{4}
    | \\[^u]""",
    re.VERBOSE | re.DOTALL,
)
_PAIR_CHARS = 12
_SHORT_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def parameters(pattern: str | None) -> dict[str, Any]:
    """Return the schema of the arguments. pattern: a regular expression for the whole input."""
    text: dict[str, Any] = {"type": "string"}
    if pattern is not None:
        text["pattern"] = f"^(?:{pattern})$"
    return {
        "type": "object",
        "properties": {FIELD: text},
        "required": [FIELD],
        "additionalProperties": False,
    }


def read_format(tool: Item, where: str) -> tuple[str | None, str | None]:
    """Return the grammar of a tool's input: its syntax and its definition; None without one.

    Raises BadRequest, which names the field, if the format is invalid.
    """
    if tool.get("format") is None:
        return None, None
    format_ = read_object(tool, "format", where)
    where = f"{where}.format"
    kind = read_text(format_, "type", where)
    if kind == "text":
        return None, None
    syntax = format_.get("syntax")
    if kind != "grammar":
        raise BadRequest(f"{where}.type: must be text or grammar.", f"{where}.type")
    if syntax not in ("lark", "regex"):
        raise BadRequest(f"{where}.syntax: must be lark or regex.", f"{where}.syntax")
    return syntax, read_text(format_, "definition", where)


def encode_input(text: str) -> str:
    """Return the arguments of a call with this input."""
    return json.dumps({FIELD: text}, ensure_ascii=False)


class InputDecoder:
    """Decodes the arguments of a call to its input, piece by piece.

    What `feed` and `finish` return adds up to the input. Arguments of another form than they should
    have are read as well as they can be.
    """

    def __init__(self) -> None:
        self._pending = ""
        self._pieces: list[str] = []
        self._feed: Callable[[str], str] = self._begin

    def feed(self, piece: str) -> str:
        """Return what this piece of the arguments adds to the input."""
        return self._feed(piece)

    def finish(self) -> str:
        """Return what is left of the input at the end of the arguments."""
        if self._feed in (self._begin, self._collect):
            return _whole_input("".join(self._pieces) + self._pending)
        return ""

    def _begin(self, piece: str) -> str:
        """Skip what is before the string."""
        self._pending += piece
        match = _BEGINNING.match(self._pending)
        if match is not None:
            rest, self._pending = self._pending[match.end() :], ""
            self._feed = self._decode
            return self._decode(rest)
        if len(self._pending) > _MAX_BEGINNING_CHARS:
            self._pieces, self._pending = [self._pending], ""
            self._feed = self._collect
        return ""

    def _collect(self, piece: str) -> str:
        self._pieces.append(piece)
        return ""

    def _decode(self, piece: str) -> str:
        """Decode a piece of the string; an escape that is cut is held back."""
        text, position, decoded = self._pending + piece, 0, []
        while position < len(text) and text[position] != '"':
            if (match := _UNIT.match(text, position)) is not None:
                decoded.append(_unescape(match[0]))
                position = match.end()
            elif len(text) - position >= _PAIR_CHARS:  # not an escape of JSON
                decoded.append(text[position])
                position += 1
            else:
                break
        self._pending = text[position:]
        if self._pending.startswith('"'):
            self._feed = _ignore
        return "".join(decoded)


def _ignore(_piece: str) -> str:
    return ""


def _unescape(unit: str) -> str:
    """Return the text of an escape, or of plain text; half a pair has none."""
    if unit[0] != "\\":
        return unit
    if unit[1] != "u":
        return _SHORT_ESCAPES.get(unit[1], unit[1])
    codes = [int(code, 16) for code in unit[2:].split("\\u")]
    if len(codes) == 2:
        return chr(0x10000 + ((codes[0] - 0xD800) << 10) + (codes[1] - 0xDC00))
    return "\ufffd" if 0xD800 <= codes[0] < 0xE000 else chr(codes[0])


def _whole_input(arguments: str) -> str:
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(parsed, dict):
        texts = [value for value in parsed.values() if isinstance(value, str)]
        parsed = parsed.get(FIELD, texts[0] if len(texts) == 1 else None)
    return parsed if isinstance(parsed, str) else arguments
