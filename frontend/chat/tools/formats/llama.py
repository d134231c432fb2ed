"""Calls that are JSON without tags, or with tags that models often leave out."""

import json
from collections.abc import Sequence

from headrace.frontend.chat.tools.json_calls import CallKeys, read_calls
from headrace.frontend.chat.tools.parser import CallSyntax, ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any

_PYTHON_TAG = "<|python_tag|>"


class BareJsonParser(ToolParser):
    """Reads calls anywhere in the output, with or without tags before and after them.

    starts: the tags that may stand before calls. ends: those that may stand after them.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...] = ()
    # An object without arguments is JSON that the user asked for.
    keys = CallKeys(needs_arguments=True)

    def __init__(self, settings: str = "") -> None:
        super().__init__(settings)
        self.delimiters = tuple(dict.fromkeys((*self.starts, *self.ends)))
        firsts = ("{", "[", *self.starts)
        self._watched = Delimiters(*[one for one in firsts if not _begins_with_other(one, firsts)])

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(self._watched, output.content)):
            source.start_recording()
            yield from accept_any(source, self.starts)
            yield from source.skip_space()
            if (yield from read_calls(source, output, self.keys, self.delimiters)):
                yield from source.skip_space()
                if (yield from accept_any(source, self.ends, or_cut=True)):
                    source.stop_recording()
            output.content(source.take_recording())


def _begins_with_other(text: str, texts: Sequence[str]) -> bool:
    return any(text.startswith(other) for other in texts if other != text)


@register_tool_parser("llama3_json", "llama4_json")
class LlamaParser(BareJsonParser):
    """Reads {"name": …, "parameters": {…}}, several separated by semicolons or as an array."""

    starts = (_PYTHON_TAG,)
    call_syntax = CallSyntax(
        _PYTHON_TAG,
        lambda name: f'{{"name": {json.dumps(name)}, "parameters": ',
        "}",
        is_whole_text=True,
    )


@register_tool_parser("xlam")
class XlamParser(BareJsonParser):
    """Reads [{"name": …, "arguments": {…}}, …] as it is, in a Markdown block or after a tag."""

    starts, ends = ("[TOOL_CALLS]", "<tool_call>", "```json", "```"), ("</tool_call>", "```")
    call_syntax = CallSyntax(
        "[TOOL_CALLS]",
        lambda name: f'{{"name": {json.dumps(name)}, "arguments": ',
        "}",
        is_whole_text=True,
    )
