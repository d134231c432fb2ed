"""Read JSON as models write it: cut short, with raw line breaks, or half in Python's syntax.

One pass from the beginning to the end, without recursion, so that the time is linear in the text
whatever it holds.
"""

import math
import re
from typing import Any

MAX_DEPTH = 96

_SPACE = re.compile(r"\s*")
_QUOTES = "\"'"
_CHARS = {quote: re.compile(rf"[^{quote}\\]*") for quote in _QUOTES}
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_BARE = re.compile(r"[^,:{}\[\]()\"'\s][^,:{}\[\]()\"'\n]*")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_MAX_DIGITS = 1000  # Python takes quadratic time for longer ones
_LITERALS = {
    "true": True,
    "false": False,
    "null": None,
    "True": True,
    "False": False,
    "None": None,
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
}
_CLOSERS = {"}": dict, "]": list, ")": list}

_MISSING: Any = object()  # where a value should be and is not


def read_object(text: str) -> dict[str, Any] | None:
    """Return the object that a text begins with, repaired where it is malformed or cut short.

    Returns None if the text does not begin with an object, or if that is nested too deeply.
    """
    reader = _Reader(text)
    value = reader.read()
    return value if isinstance(value, dict) and not reader.is_too_deep else None


class _Container:
    """An object or array that is not complete yet.

    key: of an object's next value; None where a key comes next.
    """

    def __init__(self, value: dict[str, Any] | list[Any]) -> None:
        self.value = value
        self.key: str | None = None

    def add(self, value: Any) -> None:
        """Add a value; in an object it is a key where one comes next."""
        if isinstance(self.value, list):
            if value is not _MISSING:
                self.value.append(value)
        elif self.key is None:
            self.key = value if isinstance(value, str) else None
        else:
            if value is not _MISSING:
                self.value[self.key] = value
            self.key = None


class _Reader:
    """Reads one value. is_too_deep: whether it was nested deeper than MAX_DEPTH."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._open: list[_Container] = []
        self.is_too_deep = False

    def read(self) -> Any:
        """Return the first value of the text; an incomplete one ends where the text does."""
        self._skip_space()
        if self._text[self._at : self._at + 1] not in ("{", "["):
            return _MISSING
        root = self._begin()
        while self._open and not self.is_too_deep:
            self._skip_space()
            char = self._text[self._at : self._at + 1]
            if not char:
                break
            self._step(char)
        return root

    def _step(self, char: str) -> None:
        container = self._open[-1]
        if char in "{[(":
            container.add(self._begin())
        elif char in _CLOSERS:
            self._at += 1
            self._close(_CLOSERS[char])
        elif char in ",:":
            self._at += 1
            if char == "," and container.key is not None:
                container.add(_MISSING)
        elif char in _QUOTES:
            is_key = isinstance(container.value, dict) and container.key is None
            container.add(self._string(char, ":" if is_key else ",}])"))
        else:
            container.add(self._bare())

    def _begin(self) -> dict[str, Any] | list[Any]:
        value: dict[str, Any] | list[Any] = {} if self._text[self._at] == "{" else []
        self._at += 1
        self._open.append(_Container(value))
        self.is_too_deep = len(self._open) > MAX_DEPTH
        return value

    def _close(self, kind: type[Any]) -> None:
        """Close the innermost container of a kind, and those within it that were left open."""
        for depth in range(len(self._open) - 1, -1, -1):
            if isinstance(self._open[depth].value, kind):
                del self._open[depth:]
                return

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _string(self, quote: str, followers: str) -> str:
        """Read a string with its quotes.

        followers: what comes after its end; a quote before anything else is a part of it.
        """
        self._at += 1
        parts: list[str] = []
        while True:
            match = _CHARS[quote].match(self._text, self._at)
            assert match is not None
            parts.append(match[0])
            self._at = match.end() + 1
            if self._at > len(self._text):
                return "".join(parts)
            if self._text[self._at - 1] == "\\":
                parts.append(self._escape())
            elif self._ends_string(followers):
                return "".join(parts)
            else:
                parts.append(quote)

    def _ends_string(self, followers: str) -> bool:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        follower = self._text[match.end() : match.end() + 1]
        # On the next line another member may begin: its comma is missing.
        return not follower or follower in followers or "\n" in match[0]

    def _escape(self) -> str:
        """Read the rest of an escape sequence; an unknown one stands for itself."""
        char = self._text[self._at : self._at + 1]
        if char == "u":
            match = _HEX.match(self._text, self._at + 1)
            if match is None and len(self._text) < self._at + 5:  # cut short
                self._at = len(self._text)
                return ""
            if match is None:
                return "\\"
            self._at = match.end()
            return chr(int(match[0], 16))
        self._at += 1
        if char in _ESCAPES:
            return _ESCAPES[char]
        return char if char in ('"', "'", "\\", "/", "\n", "") else "\\" + char

    def _bare(self) -> Any:
        """Read a literal, a number, or a word without quotes."""
        match = _BARE.match(self._text, self._at)
        if match is None:  # white space that JSON does not know
            self._at += 1
            return _MISSING
        self._at = match.end()
        word = match[0].rstrip()
        if word in _LITERALS:
            return _LITERALS[word]
        is_cut = self._at == len(self._text)
        number = _NUMBER.match(word)
        if number is not None and (is_cut or number.end() == len(word)):
            return _number(number)
        if is_cut:
            return _literal_of(word)
        return word


def _literal_of(beginning: str) -> Any:
    """Return the literal that was cut short."""
    if beginning.isalpha():
        for name, value in _LITERALS.items():
            if name.startswith(beginning):
                return value
    return _MISSING


def _number(match: re.Match[str]) -> Any:
    text = match[0]
    if len(text) > _MAX_DIGITS:
        return _MISSING
    return float(text) if match[1] or match[2] else int(text)
