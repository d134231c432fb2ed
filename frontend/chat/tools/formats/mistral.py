"""Mistral: calls after a special token, in the forms of its tokenizers' versions."""

import json
import re
import secrets
import string
from collections.abc import Collection

from headrace.frontend.chat.tools.json_calls import (
    CallKeys,
    is_function_name,
    read_calls,
    read_named_call,
)
from headrace.frontend.chat.tools.parser import CallSyntax, ToolParser, register_tool_parser
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
    call_syntax = CallSyntax(
        _CALLS, lambda name: f'[{{"name": {json.dumps(name)}, "arguments": ', "}]"
    )

    def call_syntax_of(self, tokens: Collection[str]) -> CallSyntax | None:
        if _ARGUMENTS not in tokens:
            return self.call_syntax
        return CallSyntax(_CALLS, lambda name: f"{name}{_ARGUMENTS}", "")

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        while (yield from source.emit_until(_DELIMITERS, output.content)):
            source.start_recording()
            source.take(len(_CALLS))
            yield from self._calls(source, output)
            output.content(source.take_recording())

    def new_id(self) -> str:
        return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))

    def _calls(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read calls; text that is left recorded is content."""
        yield from source.skip_space()
        if (yield from source.peek()) in ("[", "{"):
            yield from read_calls(source, output, CallKeys(), (_CALLS,))
            return
        name = yield from source.read_while(_NAME)
        if not is_function_name(name):
            return
        yield from source.skip_space()
        call_id = None
        if (yield from source.accept(_CALL_ID)):
            call_id = yield from source.read_while(_ID)
        yield from source.accept(_ARGUMENTS)
        call_id = call_id if call_id and len(call_id) == _ID_CHARS else None
        yield from read_named_call(source, output, name, (_CALLS,), call_id)
