"""Calls written as Python, as Llama 3.2 and 4, OLMo 3 and LFM2 do."""

import re
from typing import ClassVar

from headrace.frontend.chat.tools.json_calls import (
    CallKeys,
    is_function_name,
    read_calls,
    skip_closers,
)
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.python_arguments import PythonArguments
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any

_NAME = re.compile(r"[\w.-]*")
_NESTED_CHARS = re.compile(r"""[^"'()\[\]{}]*""")
_STRING_CHARS = {"'": re.compile(r"[^'\\]*"), '"': re.compile(r'[^"\\]*')}


@register_tool_parser("pythonic", "llama4_pythonic")
class PythonicParser(ToolParser):
    """Reads [first(city="Paris", days=3), second()], with or without tags around it.

    Arguments must be literals; they are returned as JSON when a call is complete.

    starts, ends: the tags around calls.
    needs_tags: whether a list without tags is no call.
    """

    starts: ClassVar[tuple[str, ...]] = ("<|python_start|>",)
    ends: ClassVar[tuple[str, ...]] = ("<|python_end|>",)
    needs_tags = False

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        self.delimiters = (*self.starts, *self.ends)
        self._watched = Delimiters(*self.starts, *([] if self.needs_tags else ["["]))

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(self._watched, output.content)):
            source.start_recording()
            is_tagged = yield from accept_any(source, self.starts)
            yield from source.skip_space()
            is_list = yield from source.accept("[")
            if is_tagged or is_list:
                yield from self._calls(source, output)
            output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read calls up to their end tag; text that is left recorded is content."""
        yield from source.skip_space()
        if (yield from source.peek()) == "{":  # JSON, which a system prompt may ask for
            has_calls = yield from read_calls(source, output, CallKeys(), self.ends)
        else:
            has_calls = yield from self._python_calls(source, output)
        if has_calls:
            yield from source.skip_space()
            if (yield from accept_any(source, self.ends, or_cut=True)):
                source.stop_recording()

    def _python_calls(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        """Read calls that are separated by commas or lines. Returns whether there was one."""
        has_calls = False
        while (yield from self._call(source, output)):
            has_calls = True
            yield from skip_closers(source)
            yield from source.skip_space()
            if (yield from source.accept(",")) or (yield from source.accept(";")):
                yield from source.skip_space()
                if (yield from source.peek()) == "]":
                    yield from skip_closers(source)
                    break
            elif not self.needs_tags and (yield from source.peek()) != "[":
                break
            if (yield from source.accept("[")):
                yield from source.skip_space()
        return has_calls

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


@register_tool_parser("olmo3")
class OlmoParser(PythonicParser):
    """Reads <function_calls> with a call in each line, and </function_calls>."""

    starts, ends = ("<function_calls>",), ("</function_calls>",)
    needs_tags = True


@register_tool_parser("lfm2")
class LfmParser(PythonicParser):
    """Reads <|tool_call_start|>[first(city="Paris"), second()]<|tool_call_end|>."""

    starts, ends = ("<|tool_call_start|>",), ("<|tool_call_end|>",)
    needs_tags = True


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
