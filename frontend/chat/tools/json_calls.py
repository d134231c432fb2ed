"""Calls written as JSON: objects that hold a function's name and its arguments."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Source, Step

MAX_NAME_CHARS = 256

_STRING = re.compile(r'[^"\\]*')
_NESTED = re.compile(r'[^"{}\[\]]*')
_SCALAR = re.compile(r"[-+.\w]*")


@dataclass(frozen=True, slots=True)
class Keys:
    """Under which keys an object has what makes it a call. needs_arguments: an object without them
    is none; else it is a call with no arguments."""

    name: str = "name"
    arguments: tuple[str, ...] = ("arguments", "parameters")
    needs_arguments: bool = False


def is_name(name: str) -> bool:
    """Whether a model can mean this as a function's name, and an answer can hold it."""
    return 0 < len(name) <= MAX_NAME_CHARS and name.isprintable() and not name.isspace()


def begins_value(char: str) -> bool:
    """Whether a JSON value can begin with this character; "" is none."""
    return char != "" and (char in '"{[' or _SCALAR.fullmatch(char) is not None)


def value(source: Source, emit: Callable[[str], object]) -> Step[bool]:
    """Pass on a JSON value as it is written, in parts. False if the text ends within it, or none
    begins here.

    Where an object or array ends is known by counting brackets outside strings: what a model writes
    between them is its own affair.
    """
    first = yield from source.peek()
    if first == '"':
        return (yield from _string(source, emit))
    if first not in ("{", "["):
        word = yield from source.word(_SCALAR)
        emit(word)
        return bool(word)
    depth = 0
    while True:
        yield from source.run(_NESTED, emit)
        char = yield from source.peek()
        if char == "":
            return False
        if char == '"':
            yield from _string(source, emit)
            continue
        emit(source.take(1))
        depth += 1 if char in "{[" else -1
        if depth == 0:
            return True


def _string(source: Source, emit: Callable[[str], object]) -> Step[bool]:
    """Pass on a string with its quotes. False if the text ends within it."""
    emit(source.take(1))
    while True:
        yield from source.run(_STRING, emit)
        char = yield from source.peek()
        if char == "":
            return False
        emit(source.take(1))
        if char == '"':
            return True
        if (yield from source.peek()):
            emit(source.take(1))


def text_of_string(source: Source) -> Step[str | None]:
    """What a JSON string says; None if it is none."""
    parts: list[str] = []
    if (yield from source.peek()) != '"' or not (yield from _string(source, parts.append)):
        return None
    try:
        text = json.loads("".join(parts), strict=False)
    except ValueError:
        return None
    return text if isinstance(text, str) else None


def call(source: Source, output: ParserOutput, keys: Keys) -> Step[bool]:
    """Read an object as a call. False where it turns out to be none, or to be unfinished.

    What is read is recorded, so that the caller can make it content if this is no call; from where
    it is sure to be one it is not. After the arguments it is again, and the caller decides.
    """
    reading = _Object(source, output, keys)
    return (yield from reading.read())


def calls(source: Source, output: ParserOutput, keys: Keys) -> Step[bool]:
    """Read one object, or an array of them, as calls; as `call` does."""
    if (yield from source.peek()) != "[":
        return (yield from call(source, output, keys))
    source.take(1)
    while True:
        yield from source.space()
        if not (yield from call(source, output, keys)):
            return False
        yield from source.space()
        if (yield from source.accept("]")):
            source.start_recording()
            return True
        if not (yield from source.accept(",")):
            return False


class _Object:
    def __init__(self, source: Source, output: ParserOutput, keys: Keys) -> None:
        self._source, self._output, self._keys = source, output, keys
        self._name: str | None = None
        self._arguments: list[str] | None = None  # that came before the name
        self._is_begun = False

    def read(self) -> Step[bool]:
        source = self._source
        if not (yield from source.accept("{")):
            return False
        yield from source.space()
        if (yield from source.accept("}")):
            return False
        while True:
            yield from source.space()
            if not (yield from self._member()):
                return False
            yield from source.space()
            if (yield from source.accept("}")):
                return self._end()
            if not (yield from source.accept(",")):
                return False

    def _member(self) -> Step[bool]:
        source = self._source
        key = yield from text_of_string(source)
        if key is None:
            return False
        yield from source.space()
        if not (yield from source.accept(":")):
            return False
        yield from source.space()
        if key == self._keys.name and self._name is None:
            return (yield from self._read_name())
        if key in self._keys.arguments and not self._is_begun and self._arguments is None:
            return (yield from self._read_arguments())
        return (yield from value(source, lambda _: None))

    def _read_name(self) -> Step[bool]:
        name = yield from text_of_string(self._source)
        if name is None or not is_name(name):
            return False
        self._name = name
        if self._arguments is not None:
            self._begin("".join(self._arguments))
            self._source.start_recording()
        return True

    def _read_arguments(self) -> Step[bool]:
        if not begins_value((yield from self._source.peek())):
            return False
        if self._name is None:
            self._arguments = []
            return (yield from value(self._source, self._arguments.append))
        self._begin("")
        is_whole = yield from value(self._source, self._output.arguments)
        self._source.start_recording()
        return is_whole

    def _begin(self, arguments: str) -> None:
        assert self._name is not None
        self._is_begun = True
        self._source.stop_recording()
        self._output.begin_call(self._name)
        self._output.arguments(arguments)

    def _end(self) -> bool:
        if self._is_begun:
            self._source.start_recording()
        elif self._name is not None and not self._keys.needs_arguments:
            self._begin("{}")
            self._source.start_recording()
        return self._is_begun
