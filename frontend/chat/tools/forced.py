"""The calls of a text that a grammar holds to JSON, because the request demands a call."""

from headrace.frontend.chat.tools.json_calls import Keys, calls
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.parser import ToolParser
from headrace.frontend.chat.tools.source import Source, Step

NAME, ARGUMENTS = "name", "parameters"


class ForcedCallsParser(ToolParser):
    """[{"name": …, "parameters": {…}}, …] is the whole text."""

    def read(self, source: Source, output: ParserOutput) -> Step[None]:
        source.start_recording()
        yield from source.space()
        if (yield from calls(source, output, Keys(NAME, (ARGUMENTS,)))):
            source.stop_recording()
        output.content(source.take_recording())
