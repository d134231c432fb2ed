"""Convert the arguments of a Python call to JSON, if they are literals. Nothing is evaluated."""

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
      | (?P<punctuation>[\[\](){}:,=])
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_CONSTANTS = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL
)
_ESCAPED = {"\n": "", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _NotALiteral(Exception):
    pass


class _OpenContainer:
    """A list, tuple or dictionary whose end has not come.

    key: the key of the value that comes next.
    """

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

    def become_set(self) -> None:
        """Make the string that was taken for a key the first value of a set, as a list."""
        self.values, self.key = [self.key], None

    def whole(self) -> Any:
        """Return the value of the complete container.

        Parentheses around one value without a comma are that value.
        """
        if self.end == ")" and self.values and not self.has_comma:
            assert isinstance(self.values, list)
            return self.values[0]
        return self.values


class PythonArguments:
    """Parses `city="Paris", days=3` incrementally.

    So little work is left at the end of a long call. Each token goes to the method for the current
    state (`_next`), which sets the next state.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._name = ""
        self._open: list[_OpenContainer] = []
        self._strings: list[str] = []  # adjacent string literals, which Python concatenates
        self._next: Callable[[str, str], None] = self._expect_name
        self._unread: list[str] = []
        self._is_literal = True

    def feed(self, text: str) -> None:
        """Parse more of the text between brackets and strings, cut anywhere."""
        whole, comma, rest = text.rpartition(",")
        if comma:
            self.feed_whole(whole + comma)
        self._unread.append(rest)

    def feed_whole(self, text: str) -> None:
        """Parse text that ends where a token ends, as brackets and strings do."""
        text, position = "".join([*self._unread, text]), 0
        self._unread = []
        try:
            while self._is_literal and position < len(text):
                match = _TOKEN.match(text, position)
                if match is None or match.lastgroup is None:
                    raise _NotALiteral
                self._handle_token(match.lastgroup, match[match.lastgroup])
                position = match.end()
        except _NotALiteral:
            self._is_literal = False

    def as_json(self) -> str | None:
        """Return the arguments as a JSON object.

        Returns None if they are not keyword arguments with literal values.
        """
        self.feed_whole(" ")
        if (
            not self._is_literal
            or self._open
            or self._next not in (self._expect_name, self._expect_separator)
        ):
            return None
        serialized = json.dumps(self._values, ensure_ascii=False)
        try:
            serialized.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return json.dumps(self._values)
        return serialized

    def _handle_token(self, kind: str, text: str) -> None:
        if kind == "string":
            if not self._strings and self._next not in (self._expect_value, self._expect_key):
                raise _NotALiteral
            self._strings.append(_unquoted(text))
            return
        if self._strings:
            joined, self._strings = "".join(self._strings), []
            if self._next == self._expect_key:
                self._open[-1].key = joined
                self._next = self._expect_colon
            else:
                self._add_value(joined)
        if kind != "end":
            self._next(kind, text)

    def _add_value(self, value: Any) -> None:
        if self._open:
            self._open[-1].put(value)
        else:
            self._values[self._name] = value
        self._next = self._expect_separator

    def _expect_name(self, kind: str, text: str) -> None:
        if kind != "word" or text in self._values:
            raise _NotALiteral
        self._name = text
        self._next = self._expect_equals

    def _expect_equals(self, kind: str, text: str) -> None:
        self._require(text, "=")
        self._next = self._expect_value

    def _expect_value(self, kind: str, text: str) -> None:
        if kind == "number":
            self._add_value(_number(text))
        elif kind == "word" and text in _CONSTANTS:
            self._add_value(_CONSTANTS[text])
        elif self._open and text == self._open[-1].end and self._open[-1].key is None:
            self._close()
        elif text in _CLOSING and len(self._open) < MAX_DEPTH:
            self._open.append(_OpenContainer(_CLOSING[text]))
            self._next = self._expect_key if text == "{" else self._expect_value
        else:
            raise _NotALiteral

    def _expect_key(self, kind: str, text: str) -> None:
        self._require(text, "}")
        self._close()

    def _expect_colon(self, kind: str, text: str) -> None:
        if text in (",", "}") and not self._open[-1].values:
            self._open[-1].become_set()
            self._next = self._expect_separator
            self._expect_separator(kind, text)
            return
        self._require(text, ":")
        self._next = self._expect_value

    def _expect_separator(self, kind: str, text: str) -> None:
        """Handle the token after a value."""
        if not self._open:
            self._require(text, ",")
            self._next = self._expect_name
        elif text == self._open[-1].end:
            self._close()
        else:
            self._require(text, ",")
            self._open[-1].has_comma = True
            is_dict = isinstance(self._open[-1].values, dict)
            self._next = self._expect_key if is_dict else self._expect_value

    def _close(self) -> None:
        self._add_value(self._open.pop().whole())

    def _require(self, text: str, punctuation: str) -> None:
        if text != punctuation:
            raise _NotALiteral


def _number(text: str) -> int | float:
    try:
        number = float(text) if any(char in text for char in ".eE") else int(text)
    except ValueError as error:  # thousands of digits exceed Python's limit
        raise _NotALiteral from error
    if isinstance(number, float) and not math.isfinite(number):
        raise _NotALiteral
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
        raise _NotALiteral
    return chr(code)
