"""DeepSeek V3 and V3.1: calls between special tokens."""

import re

from headrace.frontend.chat.tools.json_calls import read_named_call
from headrace.frontend.chat.tools.parser import CallSyntax, ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_DELIMITERS = Delimiters(_CALLS, _CALL)
_ENDS = (_CALL_END, _CALLS_END, _CALL)
_HEAD_CHARS = re.compile(r"[^<\n`{]*")


@register_tool_parser("deepseek", "deepseek_v31")
class DeepSeekParser(ToolParser):
    """Reads calls between special tokens.

    V3 writes `function SEPARATOR name` and the arguments as a Markdown block, V3.1 `name SEPARATOR
    arguments`.
    """

    delimiters = (_CALLS, _CALLS_END, _CALL, _CALL_END, _SEPARATOR)
    call_syntax = CallSyntax(
        _CALLS, lambda name: f"{_CALL}{name}{_SEPARATOR}", f"{_CALL_END}{_CALLS_END}"
    )

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
        while (yield from source.accept(_CALL)):
            if not (yield from self._call(source, output)):
                return
            yield from source.skip_space()
            while (yield from accept_any(source, (_CALL_END, _CALLS_END), or_cut=True)):
                source.start_recording()
                yield from source.skip_space()

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
        if not (yield from read_named_call(source, output, head.strip(), _ENDS)):
            return False
        yield from source.skip_space()
        if is_block and (yield from source.accept("```", or_cut=True)):
            source.start_recording()
        return True


@register_tool_parser("deepseek_v3")
class DeepSeekBlockParser(DeepSeekParser):
    """Reads the same, and has the call's syntax of V3."""

    call_syntax = CallSyntax(
        _CALLS,
        lambda name: f"{_CALL}function{_SEPARATOR}{name}\n```json\n",
        f"\n```{_CALL_END}{_CALLS_END}",
    )
