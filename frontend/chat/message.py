"""Parse a model's output as a message: content, reasoning and tool calls.

A reader takes the output of one choice in pieces of any size and returns what each piece adds. The
parts add up to the same message however the output is cut into pieces.
"""

from typing import NamedTuple, Protocol


class ToolCallPart(NamedTuple):
    """A part of one tool call.

    index: position of the call in the message, from 0.
    call_id, name: set in the first part of a call, None in the parts that follow.
    arguments: a piece to append to the call's arguments; JSON once they are complete.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index
    call_id: str | None
    name: str | None
    arguments: str


class MessagePart(NamedTuple):
    """The addition of a piece of output to a message; fields are appended to the previous ones."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()

    def then(self, other: "MessagePart") -> "MessagePart":
        """Return this part followed by the other one."""
        return MessagePart(
            self.content + other.content,
            self.reasoning + other.reasoning,
            self.tool_calls + other.tool_calls,
        )


NOTHING = MessagePart()


class MessageReader(Protocol):
    """Reads the output of one choice.

    Never raises, whatever the output: text that is not a tool call is content.
    """

    def feed(self, text: str) -> MessagePart:
        """Return what this piece of output adds.

        The part may hold less than the piece while its end may be the beginning of a delimiter.
        """
        ...

    def finish(self) -> MessagePart:
        """Return the part that is still held back at the end of the output. Called once."""
        ...

    def finish_reason(self, reason: str) -> str:
        """Return the finish reason to show for an output that ended for `reason`.

        "tool_calls" replaces "stop" where the message holds calls.
        """
        ...


class PlainReader:
    """Reads output that is content only."""

    def feed(self, text: str) -> MessagePart:
        return MessagePart(text)

    def finish(self) -> MessagePart:
        return NOTHING

    def finish_reason(self, reason: str) -> str:
        return reason


class ParsedToolCall(NamedTuple):
    """A complete tool call.

    arguments: as the model wrote them; JSON unless the output was cut short.
    """

    call_id: str
    name: str
    arguments: str


class CollectedMessage:
    """A message that is assembled from its parts."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []

    def add(self, part: MessagePart) -> None:
        """Append a part."""
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
    def tool_calls(self) -> list[ParsedToolCall]:
        return [ParsedToolCall(id_, name, "".join(parts)) for id_, name, parts in self._calls]
