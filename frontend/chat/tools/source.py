"""A text that is read while it comes.

What reads it is a generator: it yields where it needs more text than has come, and is resumed when
there is more, so that it is written as if the text were whole. Nothing is read twice and nothing is
kept that has been read, so the work is linear in the text, however it is cut into pieces.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Step = Generator[None, None, T]

_SPACE = re.compile(r"\s*")


class Delimiters:
    """Strings to look for at once. None of them may be the beginning of another."""

    def __init__(self, *marks: str) -> None:
        self._marks = marks
        self._pattern = re.compile("|".join(map(re.escape, marks)))
        self._firsts = sorted({mark[0] for mark in marks})
        self._longest = max(map(len, marks))

    def search(self, text: str, start: int) -> re.Match[str] | None:
        """The first mark in a text from `start` on."""
        return self._pattern.search(text, start)

    def held(self, text: str, start: int) -> int:
        """How many of the last characters may be the beginning of a mark."""
        tail = text[max(start, len(text) - self._longest + 1) :]
        places = []
        for first in self._firsts:
            place = tail.find(first)
            while place >= 0:
                if any(mark.startswith(tail[place:]) for mark in self._marks):
                    places.append(place)
                    break
                place = tail.find(first, place + 1)
        return len(tail) - min(places) if places else 0


class Source:
    """The methods that are generators return their result when enough text has come for it."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._recorded: list[str] | None = None

    def feed(self, text: str) -> None:
        """More text. What has not been read yet is short: at most the beginning of a mark."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """There will be no more text."""
        self._ended = True

    # What has been read

    def start_recording(self) -> None:
        """Keep all that is read from here on."""
        self._recorded = []

    def take_recording(self) -> str:
        """What has been read since; it is kept no longer."""
        take_recording, self._recorded = self._recorded, None
        return "".join(take_recording or ())

    def stop_recording(self) -> None:
        """Keep no more of what is read."""
        self._recorded = None

    # Reading

    def take(self, count: int) -> str:
        """The next characters; they must have come."""
        text = self._text[self._at : self._at + count]
        self._at += count
        if self._recorded is not None:
            self._recorded.append(text)
        return text

    def peek(self) -> Step[str]:
        """The next character, which is not read by this; "" at the end."""
        while self._at == len(self._text) and not self._ended:
            yield
        return self._text[self._at : self._at + 1]

    def accept(self, mark: str, *, or_cut: bool = False) -> Step[bool]:
        """Read a mark if the text goes on with it. or_cut: or with as much of it as there is when
        the text has ended."""
        while True:
            if self._text.startswith(mark, self._at):
                self.take(len(mark))
                return True
            left = len(self._text) - self._at
            if left >= len(mark) or not mark.startswith(self._text[self._at :]):
                return False
            if self._ended:
                self.take(left if or_cut else 0)
                return or_cut and left > 0
            yield

    def run(self, pattern: re.Pattern[str], emit: Callable[[str], object]) -> Step[None]:
        """Pass on all characters up to one that is none of the pattern's, which is a class of
        characters, any number of them."""
        while True:
            match = pattern.match(self._text, self._at)
            if match is not None and match.end() > self._at:
                emit(self.take(match.end() - self._at))
            if self._at < len(self._text) or self._ended:
                return
            yield

    def word(self, pattern: re.Pattern[str]) -> Step[str]:
        """The characters that `run` would pass on."""
        parts: list[str] = []
        yield from self.run(pattern, parts.append)
        return "".join(parts)

    def space(self) -> Step[None]:
        """Read white space."""
        yield from self.run(_SPACE, lambda _: None)

    def until(self, marks: Delimiters, emit: Callable[[str], object]) -> Step[str]:
        """Pass on the text up to the first mark, and return that, unread; "" if there is none."""
        while True:
            found = marks.search(self._text, self._at)
            if found is not None:
                if found.start() > self._at:
                    emit(self.take(found.start() - self._at))
                return found[0]
            held = 0 if self._ended else marks.held(self._text, self._at)
            free = len(self._text) - self._at - held
            if free:
                emit(self.take(free))
            if self._ended:
                return ""
            yield

    def rest(self, emit: Callable[[str], object]) -> Step[None]:
        """Pass on all the text that is left."""
        while True:
            if self._at < len(self._text):
                emit(self.take(len(self._text) - self._at))
            if self._ended:
                return
            yield
