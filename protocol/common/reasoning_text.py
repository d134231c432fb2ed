"""Find the reasoning at the beginning of an output by its text.

Frontends separate reasoning by it. Workers hold thinking budgets and grammars by it, so that it is
the same reasoning in whatever tokens a model writes a delimiter.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Self

from headrace.protocol.codec import Message

MAX_MARKS = 32
MAX_MARK_CHARS = 256
# Longest text after a mark that is waited for, to tell whether a call begins: more than any shape
# matches, by their length and the repetitions below.
_MAX_SPACES, _MAX_NAME_CHARS = 16, 128
_WINDOW = 1024

_SPACE = " \t\r\n"
_ATOMS = {
    " ": rf"[ \t\r\n]{{0,{_MAX_SPACES}}}",
    "%": rf"[^\s\"'<>{{}}\[\]=]{{1,{_MAX_NAME_CHARS}}}",
}


class CallStart(Message):
    """A mark that begins a tool call where one of the shapes follows it, and else is only text.

    shapes: texts in which a space stands for any white space, % for a name, and other characters
        for themselves. None: the mark begins a call whatever follows.
    """

    mark: str
    shapes: tuple[str, ...] = ()


class ReasoningMarks(Message):
    """The texts around reasoning, none of which is the beginning of another.

    starts: one of them may begin the output, after white space; () where none is expected.
    ends: any of them ends reasoning. calls: also end it, and belong to what follows.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...]
    calls: tuple[CallStart, ...] = ()

    def as_bytes(self) -> "ReasoningMarks":
        """Return the marks with a character for each of their bytes, as workers read outputs."""
        return ReasoningMarks(
            tuple(map(byte_text, self.starts)),
            tuple(map(byte_text, self.ends)),
            tuple(
                CallStart(byte_text(call.mark), tuple(map(byte_text, call.shapes)))
                for call in self.calls
            ),
        )


def byte_text(text: str) -> str:
    """Return a text with a character for each byte."""
    return text.encode().decode("latin-1")


class ReasoningScanner:
    """Follows an output from its first character on, in pieces of any size.

    is_open: whether the output begins with reasoning, with or without a start.

    begin, end: where reasoning begins, after its start, and where it ends; characters from the
        beginning of the output.
    is_over: whether there is no reasoning from here on; `rest` is then the text that was fed and
        comes after it.
    """

    def __init__(self, marks: ReasoningMarks, is_open: bool) -> None:
        self._marks = marks
        self._is_open = is_open
        self._blank: list[str] = []  # white space before a start
        self._held = ""
        self._has_begun = not marks.starts
        self.begin = 0
        self.end = 0
        self.settled = 0
        self.rest = ""
        self.is_over = not (is_open or marks.starts)

    def copy(self) -> Self:
        """Return an independent copy."""
        other = type(self)(self._marks, self._is_open)
        other._blank, other._held = list(self._blank), self._held
        other._has_begun, other.begin, other.end = self._has_begun, self.begin, self.end
        other.settled, other.rest, other.is_over = self.settled, self.rest, self.is_over
        return other

    @property
    def is_reasoning(self) -> bool:
        """Whether the output has or must have begun with reasoning."""
        return self._is_open or self.begin > 0

    @property
    def held(self) -> str:
        """The end of the text, which may be a part of a mark or the beginning of a call."""
        return self._held

    @property
    def pending_call(self) -> int | None:
        """Where a call may have begun, as far as the text has come; None if it has not."""
        is_call = any(self._held.startswith(call.mark) for call in self._marks.calls)
        return self.settled if self._has_begun and is_call else None

    @property
    def missing_start(self) -> str:
        """The rest of the first start that the output may still begin with; "" if there is none."""
        if self._has_begun or self.is_over:
            return ""
        return next(s[len(self._held) :] for s in self._marks.starts if s.startswith(self._held))

    @property
    def missing_end(self) -> str:
        """The rest of the first end, a part of which may have come."""
        end = self._marks.ends[0]
        return end[held_chars(self._held, end) :]

    def feed(self, text: str) -> str:
        """Take more text, and return the reasoning that is certain now. Not after `is_over`."""
        if self._has_begun:
            return self._find_end(text)
        if not self._held:
            stripped = text.lstrip(_SPACE)
            self._blank.append(text[: len(text) - len(stripped)])
            text = stripped
        self._held += text
        if any(
            start != self._held and start.startswith(self._held) for start in self._marks.starts
        ):
            return ""
        return self._leave_start()

    def finish(self) -> str:
        """Return the reasoning that is still held back at the end of the output.

        Where the output was none, it is over, and `rest` has the text.
        """
        if self.is_over:
            return ""
        held, self._held, self._blank = "".join(self._blank) + self._held, "", []
        if self._has_begun or self._is_open:
            return held
        self.is_over, self.rest = True, held
        return ""

    def _leave_start(self) -> str:
        """Decide how the output begins, once it must be a start or cannot be one."""
        blank, held = "".join(self._blank), self._held
        self._blank, self._held, self._has_begun = [], "", True
        for start in self._marks.starts:
            if held.startswith(start):
                self.begin = self.settled = len(blank) + len(start)
                return blank + self._find_end(held[len(start) :])
        if self._is_open:
            return self._find_end(blank + held)
        self.is_over, self.rest = True, blank + held
        return ""

    def _find_end(self, text: str) -> str:
        buffer = self._held + text
        pattern = _any_mark(self._marks)
        position = 0
        while (found := pattern.search(buffer, position)) is not None:
            if found[0] in self._marks.ends:
                return self._end_at(buffer, found.start(), found.end())
            verdict = self._begins_call(buffer, found.start(), found[0])
            if verdict:
                return self._end_at(buffer, found.start(), found.start())
            if verdict is None:
                return self._hold(buffer, found.start())
            position = found.start() + 1
        return self._hold(buffer, len(buffer) - _most_held(buffer, self._marks))

    def _begins_call(self, buffer: str, start: int, mark: str) -> bool | None:
        """Return whether a call begins at a mark; None if that is not known yet."""
        shapes = next(call.shapes for call in self._marks.calls if call.mark == mark)
        if not shapes:
            return True
        begin = start + len(mark)
        after = buffer[begin : begin + _WINDOW]
        ends = [position for end in self._marks.ends if (position := after.find(end)) >= 0]
        if ends:
            after = after[: min(ends)]
        whole, partial = _shape_patterns(shapes)
        if whole.match(after):
            return True
        is_open = not ends and begin + len(after) == len(buffer) and len(after) < _WINDOW
        return None if is_open and partial.fullmatch(after) else False

    def _hold(self, buffer: str, position: int) -> str:
        self._held = buffer[position:]
        self.settled += position
        return buffer[:position]

    def _end_at(self, buffer: str, end: int, rest: int) -> str:
        self.is_over, self._held, self.rest = True, "", buffer[rest:]
        self.settled += end
        self.end = self.settled
        return buffer[:end]


def held_chars(text: str, mark: str) -> int:
    """Return the length of the longest proper prefix of a mark that the text ends with."""
    position = text.find(mark[0], max(0, len(text) - len(mark) + 1))
    while position >= 0:
        if mark.startswith(text[position:]):
            return len(text) - position
        position = text.find(mark[0], position + 1)
    return 0


def _most_held(text: str, marks: ReasoningMarks) -> int:
    return max(held_chars(text, mark) for mark in _texts(marks))


def _texts(marks: ReasoningMarks) -> Sequence[str]:
    return [*marks.ends, *(call.mark for call in marks.calls)]


@lru_cache(maxsize=64)
def _any_mark(marks: ReasoningMarks) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, _texts(marks))))


@lru_cache(maxsize=64)
def _shape_patterns(shapes: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of any of the shapes, and of the beginnings of any."""
    atoms = [[_ATOMS.get(char, re.escape(char)) for char in shape] for shape in shapes]
    partial = []
    for sequence in atoms:
        pattern = ""
        for atom in reversed(sequence):
            pattern = f"(?:{atom}{pattern})?"
        partial.append(pattern)
    whole = ["".join(sequence) for sequence in atoms]
    return re.compile("|".join(whole)), re.compile("|".join(partial))
