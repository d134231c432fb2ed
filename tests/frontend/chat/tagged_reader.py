"""A reader of messages whose parts have tags: the outputs that tests give a model."""

from collections.abc import Mapping

from headrace.frontend.chat.message import NOTHING, MessagePart, ToolCallPart


class TaggedReader:
    """After ~r comes reasoning, after ~c content, after ~t the arguments of a call of "f".

    reasons: finish reasons that it returns instead of others.
    """

    def __init__(self, reasons: Mapping[str, str] | None = None) -> None:
        self._kind = "c"
        self._is_tagged = False
        self._calls = 0
        self._reasons = reasons or {}

    def feed(self, text: str) -> MessagePart:
        part = NOTHING
        for char in text:
            if self._is_tagged:
                self._is_tagged, self._kind = False, char
                if char == "t":
                    name = ToolCallPart(self._calls, f"call_{self._calls}", "f", "")
                    part = part.then(MessagePart(tool_calls=(name,)))
                    self._calls += 1
            elif char == "~":
                self._is_tagged = True
            else:
                part = part.then(self._part(char))
        return part

    def _part(self, char: str) -> MessagePart:
        if self._kind == "r":
            return MessagePart(reasoning=char)
        if self._kind == "t":
            call = ToolCallPart(self._calls - 1, None, None, char)
            return MessagePart(tool_calls=(call,))
        return MessagePart(char)

    def finish(self) -> MessagePart:
        return NOTHING

    def finish_reason(self, reason: str) -> str:
        return self._reasons.get(reason, reason)
