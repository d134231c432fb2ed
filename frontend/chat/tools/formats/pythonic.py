"""Calls written as a Python list of them, as Llama 3.2 and 4 do."""

import re

from headrace.frontend.chat.tools.json_calls import is_name
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser
from headrace.frontend.chat.tools.python_arguments import Arguments
from headrace.frontend.chat.tools.source import Source, Step

_START, _END = "<|python_start|>", "<|python_end|>"
_NAME = re.compile(r"[\w.-]*")
_NESTED = re.compile(r"""[^"'()\[\]{}]*""")
_STRINGS = {"'": re.compile(r"[^'\\]*"), '"': re.compile(r'[^"\\]*')}


@register_tool_parser("pythonic", "llama4_pythonic")
class PythonicParser(ToolParser):
    """[first(city="Paris", days=3), second()]: the whole answer is this. Arguments are literals;
    they are told when a call is whole, as JSON."""

    marks = (_START, _END)

    def read(self, source: Source, output: ParserOutput) -> Step[None]:
        source.start_recording()
        yield from source.space()
        yield from source.accept(_START)
        if (yield from source.accept("[")) and (yield from self._calls(source, output)):
            source.start_recording()
            yield from source.space()
            if (yield from source.accept(_END, or_cut=True)):
                source.stop_recording()
        output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Step[bool]:
        while True:
            yield from source.space()
            if not (yield from self._call(source, output)):
                return False
            source.start_recording()
            yield from source.space()
            if not (yield from source.accept(",")):
                return (yield from source.accept("]"))

    def _call(self, source: Source, output: ParserOutput) -> Step[bool]:
        name = yield from source.word(_NAME)
        if not is_name(name) or (yield from source.peek()) != "(":
            return False
        read = Arguments()
        if not (yield from _bracketed(source, read)):
            return False
        arguments = read.as_json()
        if arguments is None:
            return False
        output.begin_call(name)
        output.arguments(arguments)
        return True


def _bracketed(source: Source, read: Arguments) -> Step[bool]:
    """Read what the bracket that is next holds, and its end. False if the text ends before."""
    source.take(1)
    depth = 1
    while True:
        yield from source.run(_NESTED, read.feed)
        char = yield from source.peek()
        if char == "":
            return False
        if char in _STRINGS:
            yield from _string(source, read)
            continue
        source.take(1)
        depth += 1 if char in "([{" else -1
        if depth == 0:
            return char == ")"
        read.feed_whole(char)


def _string(source: Source, read: Arguments) -> Step[None]:
    """Read a string, as far as it goes."""
    quote = source.take(1)
    parts = [quote]
    while True:
        yield from source.run(_STRINGS[quote], parts.append)
        char = yield from source.peek()
        if char == "":
            return
        parts.append(source.take(1))
        if char == quote:
            read.feed_whole("".join(parts))
            return
        if (yield from source.peek()):
            parts.append(source.take(1))
