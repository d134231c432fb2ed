"""The messages of gpt-oss: each has a header with a channel, and calls have a recipient."""

import re

from headrace.frontend.chat.tools.json_calls import is_function_name, read_named_call
from headrace.frontend.chat.tools.parser import CallSyntax, ToolParser, register_tool_parser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Delimiters, Incremental, Source, accept_any

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_NEXT = Delimiters(_START, _CHANNEL, *_ENDS)
_END_OF_HEADER = Delimiters(_MESSAGE, _START, *_ENDS)
_END_OF_BODY = Delimiters(_START, _CHANNEL, *_ENDS)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
_PREFIX = "functions."


@register_tool_parser("openai", "gpt_oss")
class HarmonyParser(ToolParser):
    """Reads messages of the form <|start|>ROLE to=functions.NAME<|channel|>CHANNEL<|message|>….

    The recipient may stand after the channel too. Messages to functions are calls; those of the
    channel "analysis", and those to other recipients, are reasoning; all others are content.
    """

    delimiters = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, *_ENDS)
    call_syntax = CallSyntax(
        _CHANNEL,
        lambda name: f"commentary to=functions.{name} <|constrain|>json<|message|>",
        "<|call|>",
        marks=(_START, *_ENDS),
        others=tuple(f"{channel}{_MESSAGE}" for channel in ("final", "analysis", "commentary")),
    )

    def read(self, source: Source, output: ParserOutput) -> Incremental[None]:
        source.start_recording()
        yield from source.skip_space()
        # The prompt may hold the beginning of the first header.
        if (yield from source.ahead("to=")):
            yield from self._message(source, output)
        output.content(source.take_recording())
        while delimiter := (yield from source.emit_until(_NEXT, output.content)):
            source.start_recording()
            if delimiter in _ENDS:
                source.take(len(delimiter))
                source.stop_recording()
                continue
            yield from self._message(source, output)
            output.content(source.take_recording())

    def _message(self, source: Source, output: ParserOutput) -> Incremental[None]:
        """Read a message; what is left recorded is content."""
        header: list[str] = []
        yield from accept_any(source, (_START,))
        yield from source.emit_until(_END_OF_HEADER, header.append)
        if not (yield from source.accept(_MESSAGE)):
            if (yield from source.peek()) == "":
                source.stop_recording()  # half a header, which the end of the output has cut
            return
        text = "".join(header)
        recipient, channel = _RECIPIENT.search(text), _CHANNEL_NAME.search(text)
        name = recipient[1].removeprefix(_PREFIX) if recipient else ""
        if recipient and (recipient[1] != name or name in output.tools):
            yield from self._call(source, output, name)
            return
        source.stop_recording()
        is_reasoning = bool(recipient) or (channel is not None and channel[1] == "analysis")
        emit = output.reasoning if is_reasoning else output.content
        yield from source.emit_until(_END_OF_BODY, emit)
        yield from accept_any(source, _ENDS)

    def _call(self, source: Source, output: ParserOutput, name: str) -> Incremental[None]:
        ends = (*_ENDS, _START, _CHANNEL)
        yield from source.skip_space()
        if is_function_name(name) and (yield from source.ahead(_ENDS[1])):
            source.stop_recording()
            output.begin_call(name)
            output.arguments("{}")
        elif not (yield from read_named_call(source, output, name, ends)):
            return
        else:
            yield from source.skip_space()
        if (yield from accept_any(source, _ENDS, or_cut=True)):
            source.stop_recording()
