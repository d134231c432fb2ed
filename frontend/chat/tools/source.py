"""Read an output while it is generated.

A reader of a source is a generator: it yields where it needs more text than has come, and is
resumed when there is more, so that it is written as if the text were complete. Nothing is read
twice and nothing is kept that has been read, so the work is linear in the text, however it is cut
into pieces.
"""

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")

# A generator that yields whenever it needs more text, and returns a T.
Incremental = Generator[None, None, T]

_SPACE = re.compile(r"\s*")


class Delimiters:
    """Strings to search for at once. None of them may be a prefix of another."""

    def __init__(self, *delimiters: str) -> None:
        self._delimiters = delimiters
        self._pattern = re.compile("|".join(map(re.escape, delimiters)))
        self._firsts = sorted({delimiter[0] for delimiter in delimiters})
        self._longest = max(map(len, delimiters))

    def search(self, text: str, start: int) -> re.Match[str] | None:
        """Return the first delimiter in a text from `start` on."""
        return self._pattern.search(text, start)

    def held_chars(self, text: str, start: int) -> int:
        """Return how many of the last characters may be the beginning of a delimiter."""
        tail = text[max(start, len(text) - self._longest + 1) :]
        positions = []
        for first in self._firsts:
            position = tail.find(first)
            while position >= 0:
                if any(delimiter.startswith(tail[position:]) for delimiter in self._delimiters):
                    positions.append(position)
                    break
                position = tail.find(first, position + 1)
        return len(tail) - min(positions) if positions else 0


class Source:
    """The output of one choice, as its parser reads it.

    Methods that are generators return their result as soon as enough text has come.
    """

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._ended = False
        self._recorded: list[str] | None = None

    def feed(self, text: str) -> None:
        """Append text.

        Text that has not been read yet is short: at most the beginning of a delimiter.
        """
        self._text = self._text[self._position :] + text
        self._position = 0

    def end(self) -> None:
        """Mark the end of the text."""
        self._ended = True

    # Recording

    def start_recording(self) -> None:
        """Keep everything that is read from here on."""
        self._recorded = []

    def take_recording(self) -> str:
        """Stop recording, and return what has been read since it started; "" if it did not."""
        recorded, self._recorded = self._recorded, None
        return "".join(recorded or ())

    def stop_recording(self) -> None:
        """Stop recording, and drop what was recorded."""
        self._recorded = None

    # Reading

    def take(self, count: int) -> str:
        """Read the next `count` characters, which must have come, or the last ones of the text."""
        text = self._text[self._position : self._position + count]
        self._position += count
        if self._recorded is not None:
            self._recorded.append(text)
        return text

    def peek(self) -> Incremental[str]:
        """Return the next character without reading it; "" at the end."""
        while self._position == len(self._text) and not self._ended:
            yield
        return self._text[self._position : self._position + 1]

    def ahead(self, text: str, *, or_cut: bool = False) -> Incremental[bool]:
        """Return whether `text` comes next, without reading it.

        or_cut: also if the output ends within it.
        """
        while True:
            if self._text.startswith(text, self._position):
                return True
            left = len(self._text) - self._position
            if left >= len(text) or not text.startswith(self._text[self._position :]):
                return False
            if self._ended:
                return or_cut and left > 0
            yield

    def accept(self, text: str, *, or_cut: bool = False) -> Incremental[bool]:
        """Read `text` if it comes next, and return whether it did.

        or_cut: also accept a prefix of `text` that is cut off by the end of the output.
        """
        is_ahead = yield from self.ahead(text, or_cut=or_cut)
        if is_ahead:
            self.take(len(text))
        return is_ahead

    def emit_while(
        self, pattern: re.Pattern[str], emit: Callable[[str], object]
    ) -> Incremental[None]:
        """Pass characters to `emit` while they match.

        pattern: any number of characters of one class.
        """
        while True:
            match = pattern.match(self._text, self._position)
            if match is not None and match.end() > self._position:
                emit(self.take(match.end() - self._position))
            if self._position < len(self._text) or self._ended:
                return
            yield

    def read_while(self, pattern: re.Pattern[str]) -> Incremental[str]:
        """Return the characters that `emit_while` would pass on."""
        parts: list[str] = []
        yield from self.emit_while(pattern, parts.append)
        return "".join(parts)

    def skip_space(self) -> Incremental[None]:
        """Read white space."""
        yield from self.emit_while(_SPACE, lambda _: None)

    def emit_until(self, delimiters: Delimiters, emit: Callable[[str], object]) -> Incremental[str]:
        """Pass text to `emit` up to the first delimiter, and return that delimiter, unread.

        Returns "" if the text ends without one.
        """
        while True:
            found = delimiters.search(self._text, self._position)
            if found is not None:
                if found.start() > self._position:
                    emit(self.take(found.start() - self._position))
                return found[0]
            held = 0 if self._ended else delimiters.held_chars(self._text, self._position)
            free = len(self._text) - self._position - held
            if free:
                emit(self.take(free))
            if self._ended:
                return ""
            yield

    def emit_rest(self, emit: Callable[[str], object]) -> Incremental[None]:
        """Pass all text that is left to `emit`."""
        while True:
            if self._position < len(self._text):
                emit(self.take(len(self._text) - self._position))
            if self._ended:
                return
            yield


def accept_any(source: Source, texts: Sequence[str], *, or_cut: bool = False) -> Incremental[bool]:
    """Read the one of the texts that comes next, and return whether one did."""
    for text in texts:
        if (yield from source.accept(text, or_cut=or_cut)):
            return True
    return False
