"""Read the calls of an output that a grammar restricts to JSON because a call is required."""

from headrace.frontend.chat.tools.json_calls import CallKeys, read_calls
from headrace.frontend.chat.tools.parser import ToolParser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Incremental, Source

NAME, ARGUMENTS = "name", "parameters"


class ForcedCallsParser(ToolParser):
    """Reads outputs of the form [{"name": …, "parameters": {…}}, …]."""

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        source.start_recording()
        yield from source.skip_space()
        if (yield from read_calls(source, output, CallKeys(NAME, (ARGUMENTS,)))):
            source.stop_recording()
        output.content(source.take_recording())
