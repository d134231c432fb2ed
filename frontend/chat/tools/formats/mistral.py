"""Mistral: calls after a token of their own, in the forms that its tokenizers have had."""

import re
import secrets
import string

from headrace.frontend.chat.tools.json_calls import Keys, calls, is_name, value
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser
from headrace.frontend.chat.tools.source import Delimiters, Source, Step

_CALLS, _CALL_ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_MARKS = Delimiters(_CALLS)
_NAME = re.compile(r"[\w.:/-]*")
_ID = re.compile(r"[A-Za-z0-9]*")
_ID_CHARS = 9  # neither more nor fewer: its templates insist
_ALPHABET = string.ascii_letters + string.digits


@register_tool_parser("mistral")
class MistralParser(ToolParser):
    """[TOOL_CALLS][{"name": …, "arguments": {…}}, …], or for each call [TOOL_CALLS]name{…}, or
    [TOOL_CALLS]name[ARGS]{…}, with [CALL_ID]id after the name or without."""

    marks = (_CALLS, _CALL_ID, _ARGUMENTS)

    def read(self, source: Source, output: ParserOutput) -> Step[None]:
        while (yield from source.until(_MARKS, output.content)):
            source.start_recording()
            source.take(len(_CALLS))
            if (yield from self._calls(source, output)):
                source.stop_recording()
            else:
                output.content(source.take_recording())

    def new_id(self) -> str:
        return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))

    def _calls(self, source: Source, output: ParserOutput) -> Step[bool]:
        yield from source.space()
        if (yield from source.peek()) in ("[", "{"):
            return (yield from calls(source, output, Keys()))
        name = yield from source.word(_NAME)
        if not is_name(name):
            return False
        yield from source.space()
        call_id = None
        if (yield from source.accept(_CALL_ID)):
            call_id = yield from source.word(_ID)
        yield from source.accept(_ARGUMENTS)
        yield from source.space()
        if (yield from source.peek()) != "{":
            return False
        source.stop_recording()
        output.begin_call(name, call_id if call_id and len(call_id) == _ID_CHARS else None)
        return (yield from value(source, output.arguments))
