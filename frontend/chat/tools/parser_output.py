"""Collect what a tool parser finds: content and tool calls, as the parts of a message."""

from collections.abc import Callable

from headrace.frontend.chat.message import NOTHING, MessagePart, ToolCallPart
from headrace.frontend.chat.tools.tool_schemas import NO_SCHEMAS, ToolSchemas


class ParserOutput:
    """Collects the content, reasoning and calls of one output.

    White space next to a call separates it from other text and is not content: it is held back
    until the text after it is known.

    new_id: makes the id of a call.
    only_first: whether all calls but the first are dropped.
    tools: the functions that the request offers, for formats whose values have no types.
    """

    def __init__(
        self,
        new_id: Callable[[], str],
        only_first: bool = False,
        tools: ToolSchemas = NO_SCHEMAS,
    ) -> None:
        self.num_calls = 0
        self.tools = tools
        self._new_id = new_id
        self._only_first = only_first
        self._content: list[str] = []
        self._space: list[str] = []
        self._reasoning: list[str] = []
        self._after_call = False
        self._parts: list[_CallBuilder] = []

    @property
    def has_calls(self) -> bool:
        return self.num_calls > 0

    def content(self, text: str) -> None:
        """Add text that is not a call."""
        kept = text.rstrip()
        if kept:
            self._content += self._space
            self._content.append(kept)
            self._space.clear()
            self._after_call = False
        if len(kept) < len(text):
            self._space.append(text[len(kept) :])

    def reasoning(self, text: str) -> None:
        """Add reasoning that stands between content and calls."""
        self._reasoning.append(text)

    def begin_call(self, name: str, call_id: str | None = None) -> None:
        """Begin a call of the function `name`.

        call_id: the id that the model gave the call; None for a new one.
        """
        self._space.clear()
        self._after_call = True
        if not self._is_dropped(self.num_calls):
            self._parts.append(_CallBuilder(self.num_calls, call_id or self._new_id(), name))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        """Append text to the arguments of the current call."""
        index = self.num_calls - 1
        if self._is_dropped(index):
            return
        if not self._parts:
            self._parts.append(_CallBuilder(index, None, None))
        self._parts[-1].arguments.append(text)

    def _is_dropped(self, index: int) -> bool:
        return self._only_first and index > 0

    def end(self) -> None:
        """Finish after the end of the output."""
        if not self._after_call:
            self._content += self._space
        self._space.clear()

    def take_part(self) -> MessagePart:
        """Return what was added since the last call of this method."""
        if not (self._content or self._parts or self._reasoning):
            return NOTHING
        calls = tuple([part.build() for part in self._parts])
        part = MessagePart("".join(self._content), "".join(self._reasoning), calls)
        self._content.clear()
        self._reasoning.clear()
        self._parts.clear()
        return part


class _CallBuilder:
    def __init__(self, index: int, call_id: str | None, name: str | None) -> None:
        self._index, self._call_id, self._name = index, call_id, name
        self.arguments: list[str] = []

    def build(self) -> ToolCallPart:
        return ToolCallPart(self._index, self._call_id, self._name, "".join(self.arguments))
