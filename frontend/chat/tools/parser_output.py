"""What a reader of calls has found: content and calls, as the parts of a message."""

from collections.abc import Callable

from headrace.frontend.chat.message import NOTHING, MessagePart, ToolCallPart


class ParserOutput:
    """Collects what one piece of text adds.

    White space next to a call is how the model sets its calls off, and no content: it is held back
    until it is known what follows it.

    new_id: makes the id of a call. only_first: all calls but the first are dropped.
    """

    def __init__(self, new_id: Callable[[], str], only_first: bool = False) -> None:
        self.calls = 0
        self._new_id = new_id
        self._only_first = only_first
        self._content: list[str] = []
        self._space: list[str] = []
        self._after_call = False
        self._parts: list[_Part] = []

    @property
    def has_calls(self) -> bool:
        return self.calls > 0

    def content(self, text: str) -> None:
        """Text that is no call."""
        kept = text.rstrip()
        if kept:
            self._content += self._space
            self._content.append(kept)
            self._space.clear()
            self._after_call = False
        if len(kept) < len(text):
            self._space.append(text[len(kept) :])

    def begin_call(self, name: str, call_id: str | None = None) -> None:
        """A further call, of the function `name`. call_id: None for a new one."""
        self._space.clear()
        self._after_call = True
        if not self._is_dropped(self.calls):
            self._parts.append(_Part(self.calls, call_id or self._new_id(), name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that was begun last."""
        index = self.calls - 1
        if self._is_dropped(index):
            return
        if not self._parts:
            self._parts.append(_Part(index, None, None))
        self._parts[-1].arguments.append(text)

    def _is_dropped(self, index: int) -> bool:
        return self._only_first and index > 0

    def end(self) -> None:
        """The text has ended."""
        if not self._after_call:
            self._content += self._space
        self._space.clear()

    def take(self) -> MessagePart:
        """What has been found since the last time."""
        if not (self._content or self._parts):
            return NOTHING
        calls = tuple([part.whole() for part in self._parts])
        part = MessagePart("".join(self._content), "", calls)
        self._content.clear()
        self._parts.clear()
        return part


class _Part:
    def __init__(self, index: int, call_id: str | None, name: str | None) -> None:
        self._index, self._call_id, self._name = index, call_id, name
        self.arguments: list[str] = []

    def whole(self) -> ToolCallPart:
        return ToolCallPart(self._index, self._call_id, self._name, "".join(self.arguments))
