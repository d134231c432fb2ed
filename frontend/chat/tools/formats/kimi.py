"""Calls between special tokens: the function's name, a separator, and the arguments as JSON."""

import re
from typing import ClassVar

from headrace.frontend.chat.tools.json_calls import MAX_NAME_CHARS, read_named_call
from headrace.frontend.chat.tools.parser import CallSyntax, ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any

_HEAD = re.compile(r"[^<{]*")
_INDEX = re.compile(r":\d+$")


class NamedCallParser(ToolParser):
    """Reads calls, with or without the tags of a section around them.

    section: the tags around calls. call: the tags around one. separator: the text between the
    name and the arguments.
    """

    section: ClassVar[tuple[str, str]]
    call: ClassVar[tuple[str, str]]
    separator: ClassVar[str]

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        self.delimiters = (*self.section, *self.call, self.separator)
        self._starts = Delimiters(self.section[0], self.call[0])
        self._ends = (self.call[1], self.section[1], self.call[0])

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(self._starts, output.content)):
            source.start_recording()
            if (yield from source.accept(self.section[0])):
                yield from source.skip_space()
            yield from self._calls(source, output)
            output.content(source.take_recording())

    def name_and_id(self, head: str) -> tuple[str, str | None]:
        """Return the function's name and the call's id, None for a new one, from a call's head."""
        return head, None

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read calls for as long as there are any; text that is left recorded is content."""
        while (yield from source.accept(self.call[0])):
            head = (yield from source.read_while(_HEAD)).strip()
            yield from source.accept(self.separator)
            name, call_id = self.name_and_id(head)
            if not (yield from read_named_call(source, output, name, self._ends, call_id)):
                return
            yield from source.skip_space()
            while (yield from accept_any(source, (self.call[1], self.section[1]), or_cut=True)):
                source.start_recording()
                yield from source.skip_space()


@register_tool_parser("kimi_k2")
class KimiParser(NamedCallParser):
    """Reads <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>.

    What stands before the arguments is the call's id too: the model expects it with the result.
    """

    section = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
    call = ("<|tool_call_begin|>", "<|tool_call_end|>")
    separator = "<|tool_call_argument_begin|>"
    call_syntax = CallSyntax(
        section[0],
        lambda name: f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
        "<|tool_call_end|><|tool_calls_section_end|>",
    )

    def name_and_id(self, head: str) -> tuple[str, str | None]:
        name = _INDEX.sub("", head).removeprefix("functions.")
        has_id = name != head and len(head) <= MAX_NAME_CHARS
        return name, head if has_id else None


@register_tool_parser("plamo3")
class PlamoParser(NamedCallParser):
    """Reads a name and arguments, each between tags of PLaMo."""

    section = ("<|plamo:begin_tool_requests:plamo|>", "<|plamo:end_tool_requests:plamo|>")
    call = (
        "<|plamo:begin_tool_request:plamo|><|plamo:begin_tool_name:plamo|>",
        "<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>",
    )
    separator = (
        "<|plamo:end_tool_name:plamo|><|plamo:begin_tool_arguments:plamo|>"
        "<|plamo:constrain|>json<|plamo:msg|>"
    )

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        parts = ("<|plamo:begin_", "<|plamo:end_", ":plamo|>")
        self.delimiters = (*parts, "<|plamo:constrain|>", "<|plamo:msg|>")
