"""Mistral: calls after a special token, in the forms of its tokenizers' versions."""

import re
import secrets
import string

from headrace.frontend.chat.tools.json_calls import (
    CallKeys,
    emit_json_value,
    is_function_name,
    read_calls,
)
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source

_CALLS, _CALL_ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_DELIMITERS = Delimiters(_CALLS)
_NAME = re.compile(r"[\w.:/-]*")
_ID = re.compile(r"[A-Za-z0-9]*")
_ID_CHARS = 9  # its templates require exactly this length
_ALPHABET = string.ascii_letters + string.digits


@register_tool_parser("mistral")
class MistralParser(ToolParser):
    """Reads the calls after [TOOL_CALLS].

    They are [{"name": …, "arguments": {…}}, …]; or, for each call, [TOOL_CALLS]name{…} or
    [TOOL_CALLS]name[ARGS]{…}, with or without [CALL_ID]id after the name.
    """

    delimiters = (_CALLS, _CALL_ID, _ARGUMENTS)

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(_DELIMITERS, output.content)):
            source.start_recording()
            source.take(len(_CALLS))
            if (yield from self._calls(source, output)):
                source.stop_recording()
            else:
                output.content(source.take_recording())

    def new_id(self) -> str:
        return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[bool]:
        yield from source.skip_space()
        if (yield from source.peek()) in ("[", "{"):
            return (yield from read_calls(source, output, CallKeys()))
        name = yield from source.read_while(_NAME)
        if not is_function_name(name):
            return False
        yield from source.skip_space()
        call_id = None
        if (yield from source.accept(_CALL_ID)):
            call_id = yield from source.read_while(_ID)
        yield from source.accept(_ARGUMENTS)
        yield from source.skip_space()
        if (yield from source.peek()) != "{":
            return False
        source.stop_recording()
        output.begin_call(name, call_id if call_id and len(call_id) == _ID_CHARS else None)
        return (yield from emit_json_value(source, output.arguments))
