"""Llama 3: the whole output is the call, as JSON."""

import json

from headrace.frontend.chat.tools.json_calls import CallKeys, read_call
from headrace.frontend.chat.tools.parser import CallSyntax, ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source

_TAG = "<|python_tag|>"
_DELIMITERS = Delimiters(_TAG)
# Llama writes "parameters"; an object without them is JSON that the user asked for.
_KEYS = CallKeys(arguments=("parameters", "arguments"), needs_arguments=True)


@register_tool_parser("llama3_json", "llama4_json")
class LlamaParser(ToolParser):
    """Reads {"name": …, "parameters": {…}}; several calls are separated by semicolons.

    Calls come at the beginning of the output or after <|python_tag|>.
    """

    delimiters = (_TAG,)
    call_syntax = CallSyntax(
        _TAG, lambda name: f'{{"name": {json.dumps(name)}, "parameters": ', "}", is_whole_text=True
    )

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        source.start_recording()
        yield from source.skip_space()
        if (yield from source.peek()) == "{":
            yield from self._calls(source, output)
        output.content(source.take_recording())
        while (yield from source.emit_until(_DELIMITERS, output.content)):
            source.start_recording()
            source.take(len(_TAG))
            yield from source.skip_space()
            yield from self._calls(source, output)
            output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read calls for as long as there are any; text that is left recorded is content."""
        while (yield from read_call(source, output, _KEYS)):
            source.start_recording()
            yield from source.skip_space()
            if (yield from source.accept(";")):
                yield from source.skip_space()
