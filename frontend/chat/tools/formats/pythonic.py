"""Calls written as a Python list, as Llama 3.2 and 4 do."""

import re

from headrace.frontend.chat.tools.json_calls import is_function_name
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.python_arguments import PythonArguments
from headrace.frontend.chat.tools.source import Incremental, Source

_START, _END = "<|python_start|>", "<|python_end|>"
_NAME = re.compile(r"[\w.-]*")
_NESTED_CHARS = re.compile(r"""[^"'()\[\]{}]*""")
_STRING_CHARS = {"'": re.compile(r"[^'\\]*"), '"': re.compile(r'[^"\\]*')}


@register_tool_parser("pythonic", "llama4_pythonic")
class PythonicParser(ToolParser):
    """Reads [first(city="Paris", days=3), second()] as the whole output.

    Arguments must be literals; they are returned as JSON when a call is complete.
    """

    delimiters = (_START, _END)

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        source.start_recording()
        yield from source.skip_space()
        yield from source.accept(_START)
        if (yield from source.accept("[")) and (yield from self._calls(source, output)):
            source.start_recording()
            yield from source.skip_space()
            if (yield from source.accept(_END, or_cut=True)):
                source.stop_recording()
        output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        while True:
            yield from source.skip_space()
            if not (yield from self._call(source, output)):
                return False
            source.start_recording()
            yield from source.skip_space()
            if not (yield from source.accept(",")):
                return (yield from source.accept("]"))

    def _call(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        name = yield from source.read_while(_NAME)
        if not is_function_name(name) or (yield from source.peek()) != "(":
            return False
        parsed = PythonArguments()
        if not (yield from _read_bracketed(source, parsed)):
            return False
        arguments = parsed.as_json()
        if arguments is None:
            return False
        output.begin_call(name)
        output.arguments(arguments)
        return True


def _read_bracketed(source: Source, parsed: PythonArguments) -> Incremental[bool]:
    """Read the bracket that comes next, up to its end. Returns False if the text ends before."""
    source.take(1)
    depth = 1
    while True:
        yield from source.emit_while(_NESTED_CHARS, parsed.feed)
        char = yield from source.peek()
        if char == "":
            return False
        if char in _STRING_CHARS:
            yield from _read_string(source, parsed)
            continue
        source.take(1)
        depth += 1 if char in "([{" else -1
        if depth == 0:
            return char == ")"
        parsed.feed_whole(char)


def _read_string(source: Source, parsed: PythonArguments) -> Incremental[None]:
    """Read a string, as far as it has come before the end of the text."""
    quote = source.take(1)
    parts = [quote]
    while True:
        yield from source.emit_while(_STRING_CHARS[quote], parts.append)
        char = yield from source.peek()
        if char == "":
            return
        parts.append(source.take(1))
        if char == quote:
            parsed.feed_whole("".join(parts))
            return
        if (yield from source.peek()):
            parts.append(source.take(1))
