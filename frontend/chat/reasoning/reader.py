"""Tells reasoning from what follows it, in text that comes in pieces of any size."""

from collections.abc import Sequence

from headrace.frontend.chat.message import NOTHING, MessagePart, MessageReader


class ReasoningReader:
    """Reads reasoning at the beginning of a text; another reader reads what comes after it.

    Reasoning ends at the first of its end marks; all of the text is reasoning if there is none.
    White space around marks is kept: without its marks, the text is reasoning and then the rest.

    start: a mark that the text may begin with, after white space.
    end: ends reasoning and is left out. ends_before: end it too, and are read by `rest`.
    is_open: whether the text begins with reasoning even without the start mark.
    include: whether reasoning is given, or left out.
    """

    def __init__(
        self,
        rest: MessageReader,
        *,
        start: str,
        end: str,
        ends_before: Sequence[str] = (),
        is_open: bool,
        include: bool,
    ) -> None:
        self._rest = rest
        self._start = start
        self._end = end
        self._ends = (end, *ends_before)
        self._is_open = is_open
        self._include = include
        self._blank: list[str] = []  # white space before anything else
        self._held = ""
        self._has_begun = False
        self.is_over = False

    def feed(self, text: str) -> MessagePart:
        if self.is_over:
            return self._rest.feed(text)
        if not self._has_begun:
            return self._begin(text)
        return self._think(text)

    def finish(self) -> MessagePart:
        held = "".join(self._blank) + self._held
        self._blank, self._held = [], ""
        if self.is_over or not held:
            part = NOTHING
        elif self._is_open or self._has_begun:
            part = self._reasoning(held)
        else:
            part = self._rest.feed(held)
        return part.then(self._rest.finish())

    def finish_reason(self, reason: str) -> str:
        return self._rest.finish_reason(reason)

    def _begin(self, text: str) -> MessagePart:
        """Wait for what is not white space, and until it can be told from the start mark."""
        if not self._held:
            shown = text.lstrip()
            self._blank.append(text[: len(text) - len(shown)])
            text = shown
        self._held += text
        if self._start.startswith(self._held) and self._held != self._start:
            return NOTHING
        blank, held = "".join(self._blank), self._held
        self._blank, self._held = [], ""
        if held.startswith(self._start):
            self._has_begun = True
            return self._reasoning(blank).then(self._think(held[len(self._start) :]))
        if self._is_open:
            self._has_begun = True
            return self._think(blank + held)
        self.is_over = True
        return self._rest.feed(blank + held)

    def _think(self, text: str) -> MessagePart:
        buffer = self._held + text
        found = [(place, end) for end in self._ends if (place := buffer.find(end)) >= 0]
        if not found:
            held = max(_begun(buffer, end) for end in self._ends)
            self._held = buffer[len(buffer) - held :]
            return self._reasoning(buffer[: len(buffer) - held])
        place, end = min(found)
        self.is_over, self._held = True, ""
        after = buffer[place + len(end) if end == self._end else place :]
        part = self._reasoning(buffer[:place])
        return part.then(self._rest.feed(after)) if after else part

    def _reasoning(self, text: str) -> MessagePart:
        return MessagePart(reasoning=text) if text and self._include else NOTHING


def _begun(text: str, mark: str) -> int:
    """How much of a mark, short of all, the text ends with."""
    place = text.find(mark[0], max(0, len(text) - len(mark) + 1))
    while place >= 0:
        if mark.startswith(text[place:]):
            return len(text) - place
        place = text.find(mark[0], place + 1)
    return 0
