"""Pass JSON on while it is written, and repair it where it is not valid.

Valid JSON passes unchanged. Of anything else, valid JSON is made: control characters in strings are
escaped, brackets and separators added or left out, Python's constants and quotes translated, words
quoted, and what cannot be part of JSON is dropped.
"""

import json
import re
from collections.abc import Callable, Sequence

from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source

_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[-+.\w]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_STRING_CHARS = {
    '"': re.compile(r'[^"\\\x00-\x1f]*'),
    "'": re.compile(r"""[^'"\\\x00-\x1f]*"""),
}
_CONSTANTS = {
    **{name: name for name in ("true", "false", "null")},
    **{"True": "true", "False": "false", "None": "null", "NaN": "null", "undefined": "null"},
    **{"Infinity": "null", "-Infinity": "null"},
}
_CLOSING = {"{": "}", "[": "]"}
_ESCAPES = '"\\/bfnrt'
_HEX = re.compile(r"[0-9a-fA-F]")

# What comes next in the innermost bracket.
_KEY, _COLON, _VALUE, _COMMA = "key", "colon", "value", "comma"


class JsonRepairer:
    """Reads one object or array from a source and passes it to `emit`, in pieces.

    ends: texts that end it between its tokens, however many brackets are open; they are not read.
    raw_quote: a text that may stand around strings, in which nothing is escaped.
    """

    def __init__(
        self,
        source: Source,
        emit: Callable[[str], object],
        ends: Sequence[str] = (),
        raw_quote: str = "",
    ) -> None:
        self._source, self._emit, self._ends = source, emit, ends
        self._raw_quote = raw_quote
        self._open: list[str] = []  # the brackets that close what is open
        self._num_open = {"}": 0, "]": 0}
        self._next = _VALUE
        self._has_comma = False  # a comma that waits for what it separates
        self._space: list[str] = []  # white space before the next token
        self._quote = ""  # what ends the string whose end has not come

    def read(self) -> Incremental[bool]:
        """Read the value. Returns False if the text ends within it."""
        while True:
            yield from self._source.emit_while(_SPACE, self._space.append)
            char = yield from self._source.peek()
            if char == "":
                return False
            if char in _STRING_CHARS:
                yield from self._string()
            elif _SCALAR.fullmatch(char):
                yield from self._scalar()
            elif char in "{}[],:":
                self._punctuation(self._source.take(1))
            elif self._raw_quote and (yield from self._source.accept(self._raw_quote)):
                yield from self._raw_string()
            elif (yield from self._is_at_end()):
                self.complete()
            else:
                self._source.take(1)
            if not self._open:
                return True

    def read_string(self) -> Incremental[bool]:
        """Read a string instead. Returns False if the text ends within it."""
        yield from self._string()
        return not self._quote

    def complete(self) -> None:
        """Close what is open."""
        if self._quote:
            self._emit('"')
            self._end_token()
        self._space.clear()
        while self._open:
            self._close(self._open[-1])

    # Tokens

    def _punctuation(self, char: str) -> None:
        if char in _CLOSING:
            self._begin_value()
            self._emit(char)
            self._open.append(_CLOSING[char])
            self._num_open[_CLOSING[char]] += 1
            self._next = self._first_in_bracket()
        elif char in "]}":
            self._close(char)
        elif char == ",":
            self._fill()
            if self._next == _COMMA:
                self._flush(with_comma=False)
                self._has_comma = True
            self._next = self._first_in_bracket()
        elif self._next == _COLON:
            self._flush(with_comma=False)
            self._emit(":")
            self._next = _VALUE

    def _close(self, bracket: str) -> None:
        """Close the innermost bracket of this kind, and those within it; drop one that closes none.

        A comma before it is dropped too.
        """
        if not self._num_open[bracket]:
            return
        self._flush(with_comma=False)
        while True:
            self._fill()
            closed = self._open.pop()
            self._num_open[closed] -= 1
            self._emit(closed)
            self._next = _COMMA
            if closed == bracket:
                return

    def _fill(self) -> None:
        """Write the value that a key has not got."""
        if self._next == _COLON:
            self._emit(": null")
        elif self._next == _VALUE and self._open[-1] == "}":
            self._emit("null")
        else:
            return
        self._next = _COMMA

    def _begin_value(self) -> None:
        """Write what is missing before an object or array."""
        is_key = self._begin_token()
        if is_key:
            self._emit('"": ')
            self._next = _VALUE

    def _begin_token(self) -> bool:
        """Write the separator that is missing here. Returns whether a key comes next."""
        if self._next == _COMMA and self._open:
            self._emit(", ")
            self._next = self._first_in_bracket()
        elif self._next == _COLON:
            self._emit(": ")
            self._next = _VALUE
        self._flush(with_comma=True)
        return self._next == _KEY

    def _end_token(self) -> None:
        self._quote = ""
        self._next = _COLON if self._next == _KEY else _COMMA

    def _first_in_bracket(self) -> str:
        return _KEY if self._open[-1] == "}" else _VALUE

    def _is_at_end(self) -> Incremental[bool]:
        for end in self._ends:
            if (yield from self._source.ahead(end, or_cut=True)):
                return True
        return False

    def _flush(self, *, with_comma: bool) -> None:
        held = ("," if with_comma and self._has_comma else "") + "".join(self._space)
        if held:
            self._emit(held)
        self._space.clear()
        self._has_comma = False

    def _scalar(self) -> Incremental[None]:
        """Read a number or a word."""
        is_key = self._begin_token()
        text = yield from self._source.read_while(_SCALAR)
        is_cut = (yield from self._source.peek()) == ""
        self._emit(
            json.dumps(text, ensure_ascii=False) if is_key else scalar_json(text, is_cut=is_cut)
        )
        self._end_token()

    # Strings

    def _string(self) -> Incremental[None]:
        self._begin_token()
        self._quote = self._source.take(1)
        self._emit('"')
        while True:
            yield from self._source.emit_while(_STRING_CHARS[self._quote], self._emit)
            char = yield from self._source.peek()
            if char == "":
                return
            if char == "\\":
                yield from self._escape()
                continue
            self._source.take(1)
            if char == self._quote:
                self._emit('"')
                self._end_token()
                return
            self._emit('\\"' if char == '"' else json.dumps(char)[1:-1])

    def _raw_string(self) -> Incremental[None]:
        self._begin_token()
        self._quote = self._raw_quote
        self._emit('"')
        quote = Delimiters(self._raw_quote)
        yield from self._source.emit_until(
            quote, lambda text: self._emit(json.dumps(text, ensure_ascii=False)[1:-1])
        )
        if (yield from self._source.accept(self._raw_quote)):
            self._emit('"')
            self._end_token()

    def _escape(self) -> Incremental[None]:
        self._source.take(1)
        char = yield from self._source.peek()
        if char == "":
            return
        if char in _ESCAPES:
            self._emit("\\" + self._source.take(1))
        elif char == "u":
            yield from self._unicode_escape()
        elif char == "'":
            self._emit(self._source.take(1))
        elif char >= " ":
            self._emit("\\\\")

    def _unicode_escape(self) -> Incremental[None]:
        """Read an escape; without four digits it is text, or cut by the end of the text."""
        text = self._source.take(1)
        while len(text) < 5 and _HEX.fullmatch((yield from self._source.peek())):
            text += self._source.take(1)
        if len(text) == 5:
            self._emit("\\" + text)
        elif (yield from self._source.peek()):
            self._emit("\\\\" + text)


def scalar_json(text: str, *, is_cut: bool = False) -> str:
    """Return the JSON of a number or a word.

    is_cut: whether the text may be the beginning of a longer word.
    """
    if _NUMBER.fullmatch(text):
        return text
    if is_cut:
        text = next((name for name in ("true", "false", "null") if name.startswith(text)), text)
    return _CONSTANTS.get(text) or json.dumps(text, ensure_ascii=False)


def repaired_json(text: str) -> str:
    """Return the object or array that a text begins with, as valid JSON."""
    source, parts = Source(), list[str]()
    source.feed(text)
    source.end()
    repairer = JsonRepairer(source, parts.append)
    for _ in repairer.read():  # never waits, since the text is whole
        pass
    repairer.complete()
    return "".join(parts)
