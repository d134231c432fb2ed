"""Read calls that are written as JSON: objects with a function's name and its arguments."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.frontend.chat.tools.json_arguments import read_arguments
from headrace.frontend.chat.tools.json_repair import JsonRepairer
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Incremental, Source
from headrace.frontend.schemas.fields import is_one_line

MAX_NAME_CHARS = 256

_SCALAR = re.compile(r"[-+.\w]*")
_SEPARATORS = re.compile(r"[\s,;}\]]*")
_NESTED = "function"  # as in {"type": "function", "function": {"name": …, "arguments": …}}
_FENCES = ("```json", "```")


@dataclass(frozen=True, slots=True)
class CallKeys:
    """The keys that make a JSON object a call.

    name: the key of the function's name; "" if that name is itself the key of the arguments.
    arguments: the keys that the arguments may have.
    needs_arguments: whether an object without arguments is not a call; else it is one without
        arguments.
    """

    name: str = "name"
    arguments: tuple[str, ...] = ("arguments", "parameters")
    needs_arguments: bool = False


def is_function_name(name: str) -> bool:
    """Return whether a text can be a function's name and fits into an answer."""
    return 0 < len(name) <= MAX_NAME_CHARS and is_one_line(name)


def starts_json_value(char: str) -> bool:
    """Return whether a JSON value can begin with this character; False for ""."""
    return char != "" and (char in '"{[' or _SCALAR.fullmatch(char) is not None)


def emit_json_value(source: Source, emit: Callable[[str], object]) -> Incremental[bool]:
    """Pass a JSON value to `emit` as it is written, in pieces.

    Returns False if no value begins here, or if the text ends within it. Objects, arrays and
    strings that are not valid JSON are repaired.
    """
    first = yield from source.peek()
    if first in ("{", "["):
        return (yield from JsonRepairer(source, emit).read())
    if first == '"':
        return (yield from JsonRepairer(source, emit).read_string())
    scalar = yield from source.read_while(_SCALAR)
    emit(scalar)
    return bool(scalar)


def read_json_string(source: Source) -> Incremental[str | None]:
    """Read a JSON string and return its value; None if it is not a string, or not a whole one."""
    if (yield from source.peek()) not in ('"', "'"):
        return None
    parts: list[str] = []
    is_whole = yield from JsonRepairer(source, parts.append).read_string()
    return str(json.loads("".join(parts))) if is_whole else None


def read_call(
    source: Source, output: ParserOutput, keys: CallKeys, ends: Sequence[str] = ()
) -> Incremental[bool]:
    """Read an object as a call. Returns False if it is not one, or if it is incomplete.

    The caller must have started recording, so that it can make the text content if it is not a
    call. Recording stops as soon as the object is known to be a call, and starts again after the
    arguments.
    ends: texts that end the call, however many of its brackets are open; they are not read.
    """
    reader = _CallObject(source, output, keys, ends)
    return (yield from reader.read())


def read_calls(
    source: Source, output: ParserOutput, keys: CallKeys, ends: Sequence[str] = ()
) -> Incremental[bool]:
    """Read objects as `read_call` does: one, an array, or several with separators between them.

    Brackets and separators that are too many are dropped, as is a Markdown fence around the calls.
    Returns whether there was a call; what has been read after the last one is being recorded.
    """
    is_fenced = yield from _skip_fence(source)
    while (yield from source.accept("[")):
        yield from source.skip_space()
    has_calls = False
    while (yield from read_call(source, output, keys, ends)):
        has_calls = True
        yield from _skip_separators(source, ends)
        if is_fenced and (yield from source.accept("```", or_cut=True)):
            source.start_recording()
        if (yield from source.peek()) != "{":
            break
    return has_calls


def read_named_call(
    source: Source,
    output: ParserOutput,
    name: str,
    ends: Sequence[str] = (),
    call_id: str | None = None,
) -> Incremental[bool]:
    """Read the arguments of a call whose name is known.

    Returns False if no object begins here, or if the text ends within it. Recording stops at a
    call and starts again after the arguments.
    """
    yield from source.skip_space()
    if not is_function_name(name) or (yield from source.peek()) not in ("{", '"'):
        return False
    source.stop_recording()
    output.begin_call(name, call_id)
    is_whole = yield from read_arguments(source, output.arguments, ends)
    if is_whole:
        yield from skip_closers(source)
    return is_whole


def _skip_fence(source: Source) -> Incremental[bool]:
    """Read the beginning of a Markdown block, if there is one."""
    for fence in _FENCES:
        if (yield from source.accept(fence)):
            yield from source.skip_space()
            return True
    return False


def _skip_separators(source: Source, ends: Sequence[str]) -> Incremental[None]:
    """Drop brackets that close nothing, and separators if a call or the end follows them."""
    yield from skip_closers(source)
    yield from source.read_while(_SEPARATORS)
    if (yield from source.accept("[")):
        yield from source.skip_space()
    if (yield from source.peek()) in ("", "{"):
        source.start_recording()
        return
    for end in ends:
        if (yield from source.ahead(end)):
            source.start_recording()
            return


def skip_closers(source: Source) -> Incremental[None]:
    """Drop brackets that close nothing, and record what is read next.

    White space after them is kept in the recording.
    """
    source.start_recording()
    yield from source.skip_space()
    while (yield from source.peek()) in ("}", "]"):
        source.take(1)
        source.start_recording()
        yield from source.skip_space()


class _CallObject:
    def __init__(
        self, source: Source, output: ParserOutput, keys: CallKeys, ends: Sequence[str]
    ) -> None:
        self._source, self._output, self._keys, self._ends = source, output, keys, ends
        self._name: str | None = None
        self._arguments: list[str] | None = None  # if they came before the name
        self._is_begun = False
        self._is_nested = False

    def read(self) -> Incremental[bool]:
        """Read the object. A call remains one whatever follows its arguments."""
        is_object = (yield from self._members()) or (yield from self._is_at_end())
        if not self._is_begun:
            if not is_object or self._name is None or self._keys.needs_arguments:
                return False
            self._begin("{}")
        if is_object or (yield from self._source.peek()) == "":
            self._source.start_recording()
        return True

    def _members(self) -> Incremental[bool]:
        """Read an object from its bracket on. Returns False at the first text that is not one."""
        source = self._source
        if not (yield from source.accept("{")):
            return False
        while True:
            yield from source.skip_space()
            if (yield from source.accept("}")):
                return True
            if not (yield from self._member()):
                return False
            yield from source.skip_space()
            if (yield from source.accept("}")):
                return True
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
        if not self._keys.name and self._name is None:
            self._name = key
            return is_function_name(key) and (yield from self._read_arguments())
        if key == self._keys.name and self._name is None:
            return (yield from self._read_name())
        if key in self._keys.arguments and not self._is_begun and self._arguments is None:
            return (yield from self._read_arguments())
        if key == _NESTED and not self._is_nested and (yield from source.peek()) == "{":
            self._is_nested = True
            return (yield from self._members())
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
            return (yield from read_arguments(self._source, self._arguments.append, self._ends))
        self._begin("")
        is_whole = yield from read_arguments(self._source, self._output.arguments, self._ends)
        self._source.start_recording()
        return is_whole

    def _begin(self, arguments: str) -> None:
        assert self._name is not None
        self._is_begun = True
        self._source.stop_recording()
        self._output.begin_call(self._name)
        self._output.arguments(arguments)

    def _is_at_end(self) -> Incremental[bool]:
        for end in self._ends:
            if (yield from self._source.ahead(end)):
                return True
        return False
