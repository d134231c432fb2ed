"""Separate reasoning from the text after it, in text that comes in pieces of any size."""

from headrace.frontend.chat.message import NOTHING, MessagePart, MessageReader
from headrace.protocol.common.reasoning_text import ReasoningMarks, ReasoningScanner


class ReasoningReader:
    """Reads reasoning at the beginning of an output; another reader reads what comes after it.

    Reasoning ends at the first end delimiter, or where a call begins; without one, the whole output
    is reasoning. White space around delimiters is kept unless `trims`: without its delimiters, the
    output is the reasoning followed by the rest.

    content_reader: reads what follows the reasoning.
    marks: the texts around reasoning; calls among them are passed on to `content_reader`.
    is_open: whether the output begins with reasoning even without a start delimiter.
    include: whether reasoning is returned or dropped.
    heading: a text that is dropped where reasoning begins with it.
    trims: whether white space around reasoning is dropped.
    """

    def __init__(
        self,
        content_reader: MessageReader,
        *,
        marks: ReasoningMarks,
        is_open: bool,
        include: bool,
        heading: str = "",
        trims: bool = False,
    ) -> None:
        self._content_reader = content_reader
        self._scanner = ReasoningScanner(marks, is_open)
        self._include = include
        self._skipped = 0  # characters of white space to drop after reasoning
        self._trimmer = _Trimmer(heading, trims) if heading or trims else None

    @property
    def is_over(self) -> bool:
        """Whether there is no reasoning from here on."""
        return self._scanner.is_over

    def skip_space(self, count: int) -> None:
        """Drop so many characters of white space after reasoning."""
        self._skipped = count

    def feed(self, text: str) -> MessagePart:
        if self._scanner.is_over:
            return self._content(text)
        part = self._reasoning(self._scanner.feed(text))
        return part.then(self._rest()) if self._scanner.is_over else part

    def finish(self) -> MessagePart:
        part = NOTHING
        if not self._scanner.is_over:
            part = self._reasoning(self._scanner.finish())
            part = part.then(self._rest())
        return part.then(self._content_reader.finish())

    def finish_reason(self, reason: str) -> str:
        return self._content_reader.finish_reason(reason)

    def _rest(self) -> MessagePart:
        """Return what the end of reasoning and the text after it add."""
        part = NOTHING
        if self._trimmer is not None:
            part = self._shown(self._trimmer.finish())
        rest = self._scanner.rest
        return part.then(self._content(rest)) if rest else part

    def _content(self, text: str) -> MessagePart:
        if self._skipped:
            space = len(text) - len(text.lstrip())
            dropped = min(space, self._skipped)
            text = text[dropped:]
            self._skipped = 0 if text else self._skipped - dropped
            if not text:
                return NOTHING
        return self._content_reader.feed(text)

    def _reasoning(self, text: str) -> MessagePart:
        return self._shown(text if self._trimmer is None else self._trimmer.feed(text))

    def _shown(self, text: str) -> MessagePart:
        return MessagePart(reasoning=text) if text and self._include else NOTHING


class _Trimmer:
    """Drops a heading and, if `trims`, white space around a text that comes in pieces."""

    def __init__(self, heading: str, trims: bool) -> None:
        self._heading = heading
        self._trims = trims
        self._held: list[str] = []
        self._at_start = trims

    def feed(self, text: str) -> str:
        if self._heading:
            held = "".join(self._held) + text
            if self._heading.startswith(held) and held != self._heading:
                self._held = [held]
                return ""
            text, self._heading, self._held = held.removeprefix(self._heading), "", []
        if not self._trims:
            return text
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        kept = text.rstrip()
        if not kept:
            self._held.append(text)
            return ""
        shown = "".join(self._held) + kept
        self._held = [text[len(kept) :]]
        return shown

    def finish(self) -> str:
        """Return what is still held back, unless it is white space or the whole heading."""
        held, self._held = "".join(self._held), []
        if self._heading and held == self._heading.rstrip():
            return ""
        return held.strip() if self._trims else held


class AnswerReader:
    """Drops the tags around an answer; another reader reads what is between and after them.

    start: the tag that the answer may begin with, after white space; dropped with this white space
        and one line break.
    end: the tag after it; dropped with one line break before it. An answer without a start has no
        end.
    """

    def __init__(self, content_reader: MessageReader, start: str, end: str) -> None:
        self._content_reader = content_reader
        self._start = start
        self._blank: list[str] = []
        self._scanner = ReasoningScanner(ReasoningMarks((), (f"\n{end}", end)), is_open=True)
        self._held = ""
        self._stage = self._find_start

    def feed(self, text: str) -> MessagePart:
        return self._stage(text)

    def finish(self) -> MessagePart:
        held = "".join(self._blank) + self._held
        if self._stage == self._find_end:
            held = self._scanner.finish()
        part = self._content_reader.feed(held) if held else NOTHING
        return part.then(self._content_reader.finish())

    def finish_reason(self, reason: str) -> str:
        return self._content_reader.finish_reason(reason)

    def _find_start(self, text: str) -> MessagePart:
        if not self._held:
            stripped = text.lstrip()
            self._blank.append(text[: len(text) - len(stripped)])
            text = stripped
        self._held += text
        if self._start.startswith(self._held):  # the line break after it may still come
            return NOTHING
        held, blank = self._held, "".join(self._blank)
        self._held, self._blank = "", []
        if held.startswith(self._start):
            self._stage = self._find_end
            return self._find_end(held[len(self._start) :].removeprefix("\n"))
        self._stage = self._content_reader.feed
        return self._content_reader.feed(blank + held)

    def _find_end(self, text: str) -> MessagePart:
        body = self._scanner.feed(text)
        part = self._content_reader.feed(body) if body else NOTHING
        if not self._scanner.is_over:
            return part
        self._stage = self._content_reader.feed
        rest = self._scanner.rest
        return part.then(self._content_reader.feed(rest)) if rest else part


class PrefixedReader:
    """Shows a text before the output, which another reader reads."""

    def __init__(self, content_reader: MessageReader, prefix: str) -> None:
        self._content_reader = content_reader
        self._prefix = prefix

    def feed(self, text: str) -> MessagePart:
        prefix, self._prefix = self._prefix, ""
        part = self._content_reader.feed(text)
        return MessagePart(prefix).then(part) if prefix else part

    def finish(self) -> MessagePart:
        return self._content_reader.finish()

    def finish_reason(self, reason: str) -> str:
        return self._content_reader.finish_reason(reason)
