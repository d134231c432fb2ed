"""DeepSeek V3 and V3.1: calls between special tokens."""

import re

from headrace.frontend.chat.tools.json_calls import emit_json_value, is_function_name
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_DELIMITERS = Delimiters(_CALLS, _CALL)
_HEAD_CHARS = re.compile(r"[^<\n`{]*")


@register_tool_parser("deepseek", "deepseek_v3", "deepseek_v31")
class DeepSeekParser(ToolParser):
    """Reads calls between special tokens.

    V3 writes `function SEPARATOR name` and the arguments as a Markdown block, V3.1 `name SEPARATOR
    arguments`.
    """

    delimiters = (_CALLS, _CALLS_END, _CALL, _CALL_END, _SEPARATOR)

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while delimiter := (yield from source.emit_until(_DELIMITERS, output.content)):
            source.start_recording()
            if delimiter == _CALLS:
                source.take(len(_CALLS))
                yield from source.skip_space()
            yield from self._calls(source, output)
            output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read calls for as long as there are any; text that is left recorded is content."""
        has_calls = False
        while (yield from source.accept(_CALL)):
            if not (yield from self._call(source, output)):
                return
            has_calls = True
            yield from source.skip_space()
        if has_calls and (yield from source.accept(_CALLS_END, or_cut=True)):
            source.stop_recording()

    def _call(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        head = yield from source.read_while(_HEAD_CHARS)
        if not (yield from source.accept(_SEPARATOR)):
            return False
        is_block = head.strip() == "function" and (yield from source.peek()) != "{"
        if is_block:
            head = yield from source.read_while(_HEAD_CHARS)
            yield from source.skip_space()
            if not (yield from source.accept("```json")):
                return False
        yield from source.skip_space()
        if not is_function_name(head.strip()) or (yield from source.peek()) != "{":
            return False
        source.stop_recording()
        output.begin_call(head.strip())
        if not (yield from emit_json_value(source, output.arguments)):
            return False
        return (yield from self._end(source, is_block))

    def _end(self, source: Source, is_block: bool) -> Incremental[bool]:
        source.start_recording()
        yield from source.skip_space()
        if is_block:
            yield from source.accept("```", or_cut=True)
            yield from source.skip_space()
        if not (yield from source.accept(_CALL_END, or_cut=True)):
            return False
        source.start_recording()
        return True
