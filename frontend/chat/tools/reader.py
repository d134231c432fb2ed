"""Readers of messages that may hold calls."""

import logging
from collections.abc import Callable

from headrace.frontend.chat.message import MessagePart, ToolCallPart
from headrace.frontend.chat.tools.parser_output import ParserOutput
from headrace.frontend.chat.tools.parser import ToolParser
from headrace.frontend.chat.tools.source import Source

log = logging.getLogger("headrace.frontend.tools")


class ToolCallReader:
    """Reads one choice with a parser. only_first: all calls but the first are dropped. new_id: for
    other ids of calls than the parser's."""

    def __init__(
        self,
        parser: ToolParser,
        only_first: bool = False,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._source = Source()
        self._output = ParserOutput(new_id or parser.new_id, only_first)
        self._steps = parser.read(self._source, self._output)

    def feed(self, text: str) -> MessagePart:
        self._source.feed(text)
        return self._read()

    def finish(self) -> MessagePart:
        self._source.end()
        part = self._read()
        self._go_on_plainly()  # a plug-in may still wait for more
        self._output.end()
        return part.then(self._output.take())

    def finish_reason(self, reason: str) -> str:
        return "tool_calls" if reason == "stop" and self._output.has_calls else reason

    def _read(self) -> MessagePart:
        try:
            next(self._steps)
        except StopIteration:
            self._go_on_plainly()
        except Exception:  # a plug-in's fault costs the calls, not the answer
            log.exception("a tool parser failed; what it has not read is content")
            self._go_on_plainly()
        return self._output.take()

    def _go_on_plainly(self) -> None:
        self._output.content(self._source.take_recording())
        self._steps = self._source.rest(self._output.content)
        next(self._steps, None)


class ForcedArgumentsReader:
    """The whole text is the arguments of one call."""

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
