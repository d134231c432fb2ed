"""Readers of outputs that may hold tool calls."""

import logging
from collections.abc import Callable

from headrace.frontend.chat.message import MessagePart, ToolCallPart
from headrace.frontend.chat.tools.parser import ToolParser
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.source import Source
from headrace.frontend.chat.tools.tool_schemas import NO_SCHEMAS, ToolSchemas

log = logging.getLogger("headrace.frontend.tools")


class ToolCallReader:
    """Reads one output with a parser.

    only_first: whether all calls but the first are dropped.
    new_id: makes the ids of calls; None for the parser's own ids.
    tools: the functions that the request offers.
    """

    def __init__(
        self,
        parser: ToolParser,
        only_first: bool = False,
        new_id: Callable[[], str] | None = None,
        tools: ToolSchemas = NO_SCHEMAS,
    ) -> None:
        self._source = Source()
        self._output = ParserOutput(new_id or parser.new_id, only_first, tools)
        self._parsing = parser.read(self._source, self._output)

    def feed(self, text: str) -> MessagePart:
        self._source.feed(text)
        return self._read()

    def finish(self) -> MessagePart:
        self._source.end()
        part = self._read()
        self._read_as_content()  # a plug-in may still wait for more text
        self._output.end()
        return part.then(self._output.take_part())

    def finish_reason(self, reason: str) -> str:
        return "tool_calls" if reason == "stop" and self._output.has_calls else reason

    def _read(self) -> MessagePart:
        try:
            next(self._parsing)
        except StopIteration:
            self._read_as_content()
        except Exception:  # a failing plug-in loses the calls, not the answer
            log.exception("a tool parser failed; the text that it has not read is content")
            self._read_as_content()
        return self._output.take_part()

    def _read_as_content(self) -> None:
        self._output.content(self._source.take_recording())
        self._parsing = self._source.emit_rest(self._output.content)
        next(self._parsing, None)


class ForcedArgumentsReader:
    """Reads an output that is the arguments of one call, because a grammar forces it."""

    def __init__(self, name: str, call_id: str) -> None:
        self._name: str | None = name
        self._call_id: str | None = call_id

    def feed(self, text: str) -> MessagePart:
        part = ToolCallPart(0, self._call_id, self._name, text)
        self._name = self._call_id = None
        return MessagePart(tool_calls=(part,))

    def finish(self) -> MessagePart:
        return self.feed("") if self._name is not None else MessagePart()

    def finish_reason(self, reason: str) -> str:
        return reason
