"""Read the arguments of a call that are written as JSON, in whatever form models give them."""

import json
import re
from collections.abc import Callable, Sequence

from headrace.frontend.chat.tools.json_repair import JsonRepairer, scalar_json
from headrace.frontend.chat.tools.source import Incremental, Source

NO_ARGUMENTS = "{}"

_SCALAR = re.compile(r"[-+.\w]*")
_PLAIN = re.compile(r'[^"\\]*')
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"[0-9a-fA-F]")
_NOTHING = ("", "null", "None")


def read_arguments(
    source: Source, emit: Callable[[str], object], ends: Sequence[str] = ()
) -> Incremental[bool]:
    """Pass the arguments that come next to `emit`, as valid JSON, in pieces.

    An object that is written as text in a string is taken out of the string, and null is an empty
    object; other values are passed as they are. Returns False if the text ends within them.
    ends: texts that end them, however many brackets are open; they are not read.
    """
    first = yield from source.peek()
    if first in ("{", "["):
        return (yield from JsonRepairer(source, emit, ends).read())
    if first == '"':
        return (yield from _StringArguments(source, emit).read())
    text = yield from source.read_while(_SCALAR)
    is_cut = (yield from source.peek()) == ""
    written = scalar_json(text, is_cut=is_cut)
    emit(NO_ARGUMENTS if written == "null" else written)
    return bool(text)


class _StringArguments:
    """Reads arguments that are a string, and reads the object in it as it comes."""

    def __init__(self, source: Source, emit: Callable[[str], object]) -> None:
        self._source, self._emit = source, emit
        self._text: list[str] = []  # of a string that is not an object
        self._object = Source()
        self._repairer = JsonRepairer(self._object, emit)
        self._reading = self._repairer.read()
        self._is_object: bool | None = None  # None: not known yet
        self._is_read = False
        self._high = ""  # the first half of a surrogate pair, as it is written

    def read(self) -> Incremental[bool]:
        source = self._source
        source.take(1)
        while True:
            yield from source.emit_while(_PLAIN, self._add)
            char = yield from source.peek()
            if char == "":
                self._end(is_whole=False)
                return False
            source.take(1)
            if char == '"':
                self._end(is_whole=True)
                return True
            yield from self._escape()

    def _escape(self) -> Incremental[None]:
        char = yield from self._source.peek()
        if char == "":
            return
        self._source.take(1)
        if char != "u":
            self._add(_ESCAPED.get(char, char))
            return
        digits = ""
        while len(digits) < 4 and _HEX.fullmatch((yield from self._source.peek())):
            digits += self._source.take(1)
        if len(digits) == 4:
            self._add_unit(int(digits, 16))
        elif (yield from self._source.peek()):
            self._add("\\u" + digits)

    def _add_unit(self, unit: int) -> None:
        """Add a UTF-16 code unit; half of a pair waits for the other half."""
        if 0xDC00 <= unit < 0xE000 and self._high:
            high, self._high = int(self._high[2:], 16), ""
            self._add(chr(0x10000 + ((high - 0xD800) << 10) + (unit - 0xDC00)))
        elif 0xD800 <= unit < 0xDC00:
            self._add("")
            self._high = f"\\u{unit:04x}"
        else:
            self._add(chr(unit) if not 0xDC00 <= unit < 0xE000 else f"\\u{unit:04x}")

    def _add(self, text: str) -> None:
        text, self._high = self._high + text, ""
        if self._is_object is None and text.strip():
            self._is_object = text.lstrip()[0] == "{"
            text = text.lstrip()
        if self._is_object:
            self._object.feed(text)
            self._resume()
        elif self._is_object is None or not self._is_read:
            self._text.append(text)

    def _resume(self) -> None:
        """Read on in the object; what follows it is dropped."""
        try:
            next(self._reading)
        except StopIteration:
            self._is_object, self._is_read = False, True

    def _end(self, *, is_whole: bool) -> None:
        self._add("")
        if self._is_object:
            self._object.end()
            self._resume()
            if is_whole:
                self._repairer.complete()
            return
        if self._is_read:
            return
        text = "".join(self._text)
        if text.strip() in _NOTHING:
            self._emit(NO_ARGUMENTS)
            return
        written = json.dumps(text, ensure_ascii=False)
        self._emit(written if is_whole else written[:-1])
