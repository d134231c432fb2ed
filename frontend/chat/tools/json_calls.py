"""Read calls that are written as JSON: objects with a function's name and its arguments."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Incremental, Source

MAX_NAME_CHARS = 256

_STRING_CHARS = re.compile(r'[^"\\]*')
_NESTED_CHARS = re.compile(r'[^"{}\[\]]*')
_SCALAR = re.compile(r"[-+.\w]*")


@dataclass(frozen=True, slots=True)
class CallKeys:
    """The keys that make a JSON object a call.

    name: the key of the function's name.
    arguments: the keys that the arguments may have.
    needs_arguments: whether an object without arguments is not a call; else it is one without
        arguments.
    """

    name: str = "name"
    arguments: tuple[str, ...] = ("arguments", "parameters")
    needs_arguments: bool = False


def is_function_name(name: str) -> bool:
    """Return whether a text can be a function's name and fits into an answer."""
    return 0 < len(name) <= MAX_NAME_CHARS and name.isprintable() and not name.isspace()


def starts_json_value(char: str) -> bool:
    """Return whether a JSON value can begin with this character; False for ""."""
    return char != "" and (char in '"{[' or _SCALAR.fullmatch(char) is not None)


def emit_json_value(source: Source, emit: Callable[[str], object]) -> Incremental[bool]:
    """Pass a JSON value to `emit` as it is written, in pieces.

    Returns False if no value begins here, or if the text ends within it. The end of an object or
    array is found by counting brackets outside strings; what stands between them is not validated.
    """
    first = yield from source.peek()
    if first == '"':
        return (yield from _emit_string(source, emit))
    if first not in ("{", "["):
        scalar = yield from source.read_while(_SCALAR)
        emit(scalar)
        return bool(scalar)
    depth = 0
    while True:
        yield from source.emit_while(_NESTED_CHARS, emit)
        char = yield from source.peek()
        if char == "":
            return False
        if char == '"':
            yield from _emit_string(source, emit)
            continue
        emit(source.take(1))
        depth += 1 if char in "{[" else -1
        if depth == 0:
            return True


def _emit_string(source: Source, emit: Callable[[str], object]) -> Incremental[bool]:
    """Pass a string with its quotes to `emit`. Returns False if the text ends within it."""
    emit(source.take(1))
    while True:
        yield from source.emit_while(_STRING_CHARS, emit)
        char = yield from source.peek()
        if char == "":
            return False
        emit(source.take(1))
        if char == '"':
            return True
        if (yield from source.peek()):
            emit(source.take(1))


def read_json_string(source: Source) -> Incremental[str | None]:
    """Read a JSON string and return its value; None if it is not a string."""
    parts: list[str] = []
    if (yield from source.peek()) != '"' or not (yield from _emit_string(source, parts.append)):
        return None
    try:
        text = json.loads("".join(parts), strict=False)
    except ValueError:
        return None
    return text if isinstance(text, str) else None


def read_call(source: Source, output: ParserOutput, keys: CallKeys) -> Incremental[bool]:
    """Read an object as a call. Returns False if it is not one, or if it is incomplete.

    The caller must have started recording, so that it can make the text content if it is not a
    call. Recording stops as soon as the object is known to be a call, and starts again after the
    arguments.
    """
    reader = _CallObject(source, output, keys)
    return (yield from reader.read())


def read_calls(source: Source, output: ParserOutput, keys: CallKeys) -> Incremental[bool]:
    """Read one object, or an array of objects, as `read_call` does."""
    if (yield from source.peek()) != "[":
        return (yield from read_call(source, output, keys))
    source.take(1)
    while True:
        yield from source.skip_space()
        if not (yield from read_call(source, output, keys)):
            return False
        yield from source.skip_space()
        if (yield from source.accept("]")):
            source.start_recording()
            return True
        if not (yield from source.accept(",")):
            return False


class _CallObject:
    def __init__(self, source: Source, output: ParserOutput, keys: CallKeys) -> None:
        self._source, self._output, self._keys = source, output, keys
        self._name: str | None = None
        self._arguments: list[str] | None = None  # if they came before the name
        self._is_begun = False

    def read(self) -> Incremental[bool]:
        source = self._source
        if not (yield from source.accept("{")):
            return False
        yield from source.skip_space()
        if (yield from source.accept("}")):
            return False
        while True:
            yield from source.skip_space()
            if not (yield from self._member()):
                return False
            yield from source.skip_space()
            if (yield from source.accept("}")):
                return self._end()
            if not (yield from source.accept(",")):
                return False

    def _member(self) -> Incremental[bool]:
        source = self._source
        key = yield from read_json_string(source)
        if key is None:
            return False
        yield from source.skip_space()
        if not (yield from source.accept(":")):
            return False
        yield from source.skip_space()
        if key == self._keys.name and self._name is None:
            return (yield from self._read_name())
        if key in self._keys.arguments and not self._is_begun and self._arguments is None:
            return (yield from self._read_arguments())
        return (yield from emit_json_value(source, lambda _: None))

    def _read_name(self) -> Incremental[bool]:
        name = yield from read_json_string(self._source)
        if name is None or not is_function_name(name):
            return False
        self._name = name
        if self._arguments is not None:
            self._begin("".join(self._arguments))
            self._source.start_recording()
        return True

    def _read_arguments(self) -> Incremental[bool]:
        if not starts_json_value((yield from self._source.peek())):
            return False
        if self._name is None:
            self._arguments = []
            return (yield from emit_json_value(self._source, self._arguments.append))
        self._begin("")
        is_whole = yield from emit_json_value(self._source, self._output.arguments)
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
