"""Llama 3: the whole answer is the call, as JSON."""

import json

from headrace.frontend.chat.tools.json_calls import Keys, call
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.parser import CallTag, ToolParser, register_tool_parser
from headrace.frontend.chat.tools.source import Delimiters, Source, Step

_TAG = "<|python_tag|>"
_MARKS = Delimiters(_TAG)
# Llama writes "parameters"; an object without them is JSON that was asked for.
_KEYS = Keys(arguments=("parameters", "arguments"), needs_arguments=True)


@register_tool_parser("llama3_json", "llama4_json")
class LlamaParser(ToolParser):
    """{"name": …, "parameters": {…}}; several are separated by semicolons. They stand at the
    beginning of the text or after <|python_tag|>."""

    marks = (_TAG,)
    tag = CallTag(
        _TAG, lambda name: f'{{"name": {json.dumps(name)}, "parameters": ', "}", is_whole_text=True
    )

    def read(self, source: Source, output: ParserOutput) -> Step[None]:
        source.start_recording()
        yield from source.space()
        if (yield from source.peek()) == "{":
            yield from self._calls(source, output)
        output.content(source.take_recording())
        while (yield from source.until(_MARKS, output.content)):
            source.start_recording()
            source.take(len(_TAG))
            yield from source.space()
            yield from self._calls(source, output)
            output.content(source.take_recording())

    def _calls(self, source: Source, output: ParserOutput) -> Step[None]:
        """Read calls for as long as there are any; what is left recorded is content."""
        while (yield from call(source, output, _KEYS)):
            source.start_recording()
            yield from source.space()
            if (yield from source.accept(";")):
                yield from source.space()
