"""What a model's text says as a message: content, reasoning and calls of tools.

A reader takes the text of one choice as it comes, in pieces of any size, and tells what each piece
adds. However the text is cut into pieces, the parts of all of them join to the same message.
"""

from typing import NamedTuple, Protocol


class ToolCallPart(NamedTuple):
    """A part of one call. index: which of the message's calls, from 0.

    call_id, name: in the first part of a call, None in those that follow.
    arguments: to be appended to the call's arguments, which are JSON when they are whole.
    """

    index: int  # type: ignore[assignment]  # hides a method of tuples that nobody needs
    call_id: str | None
    name: str | None
    arguments: str


class MessagePart(NamedTuple):
    """What a piece of text adds to a message; each is to be appended."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()

    def then(self, other: "MessagePart") -> "MessagePart":
        """Both parts, one after the other."""
        return MessagePart(
            self.content + other.content,
            self.reasoning + other.reasoning,
            self.tool_calls + other.tool_calls,
        )


NOTHING = MessagePart()


class MessageReader(Protocol):
    """Reads one choice. Never raises, whatever the text: what is no call is content."""

    def feed(self, text: str) -> MessagePart:
        """What more text adds; may be less than it says, while it can be the start of a mark."""
        ...

    def finish(self) -> MessagePart:
        """What is still held back, when the text has ended. Called once."""
        ...

    def finish_reason(self, reason: str) -> str:
        """What the client is told, where the text ended for this reason ("tool_calls", say)."""
        ...


class PlainReader:
    """All text is content."""

    def feed(self, text: str) -> MessagePart:
        return MessagePart(text)

    def finish(self) -> MessagePart:
        return NOTHING

    def finish_reason(self, reason: str) -> str:
        return reason


class ToolCall(NamedTuple):
    """A whole call. arguments: as the model wrote them; JSON unless the text was cut short."""

    call_id: str
    name: str
    arguments: str


class Message:
    """A message in the making."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []

    def add(self, part: MessagePart) -> None:
        self._content.append(part.content)
        self._reasoning.append(part.reasoning)
        for call in part.tool_calls:
            if call.name is not None:
                self._calls.append((call.call_id or "", call.name, []))
            self._calls[call.index][2].append(call.arguments)

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [ToolCall(id_, name, "".join(parts)) for id_, name, parts in self._calls]
