"""The arguments of a Python call, if they are literals, as JSON. Nothing is evaluated."""

import json
import math
import re
from typing import Any, NamedTuple

MAX_DEPTH = 64

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')
      | (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<word>[^\W\d]\w*)
      | (?P<mark>[\[\](){}:,=])
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL
)
_ESCAPED = {"\n": "", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _NoLiteral(Exception):
    pass


class _Token(NamedTuple):
    kind: str
    text: str


def arguments_as_json(text: str) -> str | None:
    """`city="Paris", days=3` as a JSON object; None for anything but named literals."""
    try:
        parsed = _Parser(text).arguments()
    except _NoLiteral:
        return None
    written = json.dumps(parsed, ensure_ascii=False)
    try:
        written.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(parsed)
    return written


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._next = self._read()

    def arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._next.kind != "end":
            name = self._take()
            if name.kind != "word" or name.text in found:
                raise _NoLiteral
            self._expect("=")
            found[name.text] = self._value(0)
            if self._next.kind != "end":
                self._expect(",")
        return found

    def _read(self) -> _Token:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            raise _NoLiteral
        self._at = match.end()
        return _Token(match.lastgroup, match[match.lastgroup])

    def _take(self) -> _Token:
        token = self._next
        if token.kind != "end":
            self._next = self._read()
        return token

    def _is(self, mark: str) -> bool:
        return self._next == _Token("mark", mark)

    def _expect(self, mark: str) -> None:
        if self._take() != _Token("mark", mark):
            raise _NoLiteral

    def _value(self, depth: int) -> Any:
        token = self._take()
        if token.kind == "string":
            return self._strings(token.text)
        if token.kind == "number":
            return _number(token.text)
        if token.kind == "word" and token.text in _WORDS:
            return _WORDS[token.text]
        if token.kind != "mark" or depth == MAX_DEPTH:
            raise _NoLiteral
        if token.text == "[":
            return self._items("]", depth)[0]
        if token.text == "(":
            items, has_comma = self._items(")", depth)
            return items if has_comma or not items else items[0]
        if token.text == "{":
            return self._pairs(depth)
        raise _NoLiteral

    def _strings(self, first: str) -> str:
        """A string, and those that stand right after it: Python makes one of them."""
        parts = [_unquoted(first)]
        while self._next.kind == "string":
            parts.append(_unquoted(self._take().text))
        return "".join(parts)

    def _items(self, end: str, depth: int) -> tuple[list[Any], bool]:
        """The values up to a bracket, and whether there was a comma."""
        items: list[Any] = []
        has_comma = False
        while not self._is(end):
            items.append(self._value(depth + 1))
            if not self._is(end):
                self._expect(",")
                has_comma = True
        self._take()
        return items, has_comma

    def _pairs(self, depth: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        while not self._is("}"):
            if self._next.kind != "string":
                raise _NoLiteral
            key = self._strings(self._take().text)
            self._expect(":")
            pairs[key] = self._value(depth + 1)
            if not self._is("}"):
                self._expect(",")
        self._take()
        return pairs


def _number(text: str) -> int | float:
    try:
        number = float(text) if any(char in text for char in ".eE") else int(text)
    except ValueError as error:  # thousands of digits
        raise _NoLiteral from error
    if isinstance(number, float) and not math.isfinite(number):
        raise _NoLiteral
    return number


def _unquoted(literal: str) -> str:
    return _ESCAPE.sub(_unescaped, literal[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    *digits, octal, char = match.groups()
    code = next((int(number, 16) for number in digits if number), None)
    if octal:
        code = int(octal, 8)
    if code is None:
        return _ESCAPED.get(char, char if char in "\\'\"" else "\\" + char)
    if code > 0x10FFFF:
        raise _NoLiteral
    return chr(code)
