"""The arguments of a Python call, if they are literals, as JSON. Nothing is evaluated."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

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
_ENDS = {"[": "]", "(": ")", "{": "}"}
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL
)
_ESCAPED = {"\n": "", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _NoLiteral(Exception):
    pass


class _Open:
    """A list, tuple or dictionary whose end has not come. key: of the value that comes next."""

    __slots__ = ("end", "has_comma", "key", "values")

    def __init__(self, end: str) -> None:
        self.end = end
        self.values: list[Any] | dict[str, Any] = {} if end == "}" else []
        self.key: str | None = None
        self.has_comma = False

    def put(self, value: Any) -> None:
        if isinstance(self.values, list):
            self.values.append(value)
        else:
            assert self.key is not None
            self.values[self.key] = value
            self.key = None

    def whole(self) -> Any:
        """The value that it is; in parentheses without a comma that is what stands in them."""
        if self.end == ")" and self.values and not self.has_comma:
            assert isinstance(self.values, list)
            return self.values[0]
        return self.values


class PythonArguments:
    """`city="Paris", days=3`, read while it comes: of a long call little is left to do at its end.

    Each token goes to the method that says what may come next (`_next`), which names the one after.
    """

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}
        self._name = ""
        self._open: list[_Open] = []
        self._strings: list[str] = []  # that stand right after each other: Python makes one of them
        self._next: Callable[[str, str], None] = self._want_name
        self._unread: list[str] = []
        self._is_literal = True

    def feed(self, text: str) -> None:
        """More of what stands between brackets and strings, cut anywhere."""
        whole, comma, rest = text.rpartition(",")
        if comma:
            self.feed_whole(whole + comma)
        self._unread.append(rest)

    def feed_whole(self, text: str) -> None:
        """Text that ends where a token does, as brackets and strings do."""
        unread, at = "".join([*self._unread, text]), 0
        self._unread = []
        try:
            while self._is_literal and at < len(unread):
                match = _TOKEN.match(unread, at)
                if match is None or match.lastgroup is None:
                    raise _NoLiteral
                self._take(match.lastgroup, match[match.lastgroup])
                at = match.end()
        except _NoLiteral:
            self._is_literal = False

    def as_json(self) -> str | None:
        """All the arguments as a JSON object; None for anything but named literals."""
        self.feed_whole(" ")
        if not self._is_literal or self._open or self._next not in (self._want_name, self._follow):
            return None
        written = json.dumps(self._found, ensure_ascii=False)
        try:
            written.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return json.dumps(self._found)
        return written

    def _take(self, kind: str, text: str) -> None:
        if kind == "string":
            if not self._strings and self._next not in (self._want_value, self._want_key):
                raise _NoLiteral
            self._strings.append(_unquoted(text))
            return
        if self._strings:
            joined, self._strings = "".join(self._strings), []
            if self._next == self._want_key:
                self._open[-1].key = joined
                self._next = self._want_colon
            else:
                self._put(joined)
        if kind != "end":
            self._next(kind, text)

    def _put(self, value: Any) -> None:
        if self._open:
            self._open[-1].put(value)
        else:
            self._found[self._name] = value
        self._next = self._follow

    def _want_name(self, kind: str, text: str) -> None:
        if kind != "word" or text in self._found:
            raise _NoLiteral
        self._name = text
        self._next = self._want_equals

    def _want_equals(self, kind: str, text: str) -> None:
        self._expect(text, "=")
        self._next = self._want_value

    def _want_value(self, kind: str, text: str) -> None:
        if kind == "number":
            self._put(_number(text))
        elif kind == "word" and text in _WORDS:
            self._put(_WORDS[text])
        elif self._open and text == self._open[-1].end and text != "}":  # a key has its value
            self._close()
        elif text in _ENDS and len(self._open) < MAX_DEPTH:
            self._open.append(_Open(_ENDS[text]))
            self._next = self._want_key if text == "{" else self._want_value
        else:
            raise _NoLiteral

    def _want_key(self, kind: str, text: str) -> None:
        self._expect(text, "}")
        self._close()

    def _want_colon(self, kind: str, text: str) -> None:
        self._expect(text, ":")
        self._next = self._want_value

    def _follow(self, kind: str, text: str) -> None:
        """After a value."""
        if not self._open:
            self._expect(text, ",")
            self._next = self._want_name
        elif text == self._open[-1].end:
            self._close()
        else:
            self._expect(text, ",")
            self._open[-1].has_comma = True
            self._next = self._want_key if self._open[-1].end == "}" else self._want_value

    def _close(self) -> None:
        self._put(self._open.pop().whole())

    def _expect(self, text: str, mark: str) -> None:
        if text != mark:
            raise _NoLiteral


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
