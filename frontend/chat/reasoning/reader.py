"""Separate reasoning from the text after it, in text that comes in pieces of any size."""

from collections.abc import Sequence

from headrace.frontend.chat.message import NOTHING, MessagePart, MessageReader


class ReasoningReader:
    """Reads reasoning at the beginning of an output; another reader reads what comes after it.

    Reasoning ends at the first end delimiter; without one, the whole output is reasoning. White
    space around delimiters is kept: without its delimiters, the output is the reasoning followed by
    the rest.

    content_reader: reads what follows the reasoning.
    start: the delimiter that the output may begin with, after white space.
    end: ends reasoning and is dropped.
    ends_before: further delimiters that end reasoning and are passed on to `content_reader`.
    is_open: whether the output begins with reasoning even without the start delimiter.
    include: whether reasoning is returned or dropped.
    """

    def __init__(
        self,
        content_reader: MessageReader,
        *,
        start: str,
        end: str,
        ends_before: Sequence[str] = (),
        is_open: bool,
        include: bool,
    ) -> None:
        self._content_reader = content_reader
        self._start = start
        self._end = end
        self._ends = (end, *ends_before)
        self._is_open = is_open
        self._include = include
        self._blank: list[str] = []  # leading white space
        self._held = ""
        self._has_begun = False
        self.is_over = False

    def feed(self, text: str) -> MessagePart:
        if self.is_over:
            return self._content_reader.feed(text)
        if not self._has_begun:
            return self._find_start(text)
        return self._find_end(text)

    def finish(self) -> MessagePart:
        held = "".join(self._blank) + self._held
        self._blank, self._held = [], ""
        if self.is_over or not held:
            part = NOTHING
        elif self._is_open or self._has_begun:
            part = self._reasoning(held)
        else:
            part = self._content_reader.feed(held)
        return part.then(self._content_reader.finish())

    def finish_reason(self, reason: str) -> str:
        return self._content_reader.finish_reason(reason)

    def _find_start(self, text: str) -> MessagePart:
        """Hold text back until it differs from white space and from the start delimiter."""
        if not self._held:
            stripped = text.lstrip()
            self._blank.append(text[: len(text) - len(stripped)])
            text = stripped
        self._held += text
        if self._start.startswith(self._held) and self._held != self._start:
            return NOTHING
        blank, held = "".join(self._blank), self._held
        self._blank, self._held = [], ""
        if held.startswith(self._start):
            self._has_begun = True
            return self._reasoning(blank).then(self._find_end(held[len(self._start) :]))
        if self._is_open:
            self._has_begun = True
            return self._find_end(blank + held)
        self.is_over = True
        return self._content_reader.feed(blank + held)

    def _find_end(self, text: str) -> MessagePart:
        """Return reasoning up to the first end delimiter."""
        buffer = self._held + text
        found = [(position, end) for end in self._ends if (position := buffer.find(end)) >= 0]
        if not found:
            held = max(_delimiter_prefix(buffer, end) for end in self._ends)
            self._held = buffer[len(buffer) - held :]
            return self._reasoning(buffer[: len(buffer) - held])
        position, end = min(found)
        self.is_over, self._held = True, ""
        rest = buffer[position + len(end) if end == self._end else position :]
        part = self._reasoning(buffer[:position])
        return part.then(self._content_reader.feed(rest)) if rest else part

    def _reasoning(self, text: str) -> MessagePart:
        return MessagePart(reasoning=text) if text and self._include else NOTHING


def _delimiter_prefix(text: str, delimiter: str) -> int:
    """Return the length of the longest proper prefix of the delimiter that the text ends with."""
    position = text.find(delimiter[0], max(0, len(text) - len(delimiter) + 1))
    while position >= 0:
        if delimiter.startswith(text[position:]):
            return len(text) - position
        position = text.find(delimiter[0], position + 1)
    return 0
