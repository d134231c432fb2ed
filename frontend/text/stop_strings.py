"""Find stop strings in a text, however the text is split into pieces.

Each stop string has a Knuth–Morris–Pratt automaton, which takes one character at a time: it is
linear in the text, whatever the strings are, and independent of where pieces end.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """The result of matching a piece of text.

    text: what may be shown.
    stop: the stop string that was found, or None.
    """

    text: str
    stop: str | None = None


class StopMatcher:
    """Passes text on, and holds back only what may be the beginning of a stop string.

    The first stop string to be complete ends the text; if several end at the same character, the
    first in the list.
    include_stop: whether the stop string itself is shown.
    """

    def __init__(self, stops: tuple[str, ...], include_stop: bool) -> None:
        self._automata = [_Automaton(stop) for stop in dict.fromkeys(stops)]
        self._include_stop = include_stop
        self._held = ""

    @property
    def is_empty(self) -> bool:
        """Return whether there are no stop strings, so that all text passes."""
        return not self._automata

    def feed(self, text: str, may_stop: bool = True) -> StopMatch:
        """Return the text that can be shown now. Must not be called after a match.

        may_stop: whether a stop string may end in this text. One that ends later may begin in it
            in any case.
        """
        if not self._automata:
            return StopMatch(text)
        buffer = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            completed = [automaton for automaton in self._automata if automaton.step(character)]
            if completed and may_stop:
                stop = completed[0].stop
                return StopMatch(buffer[: end if self._include_stop else end - len(stop)], stop)
        held = max(automaton.matched for automaton in self._automata)
        self._held = buffer[len(buffer) - held :]
        return StopMatch(buffer[: len(buffer) - held])

    def flush(self) -> str:
        """Return the part that is held back at the end of the text."""
        held, self._held = self._held, ""
        for automaton in self._automata:
            automaton.matched = 0
        return held


class _Automaton:
    """The automaton of one stop string.

    matched: how many characters of the stop string the text now ends with; after the whole string,
        the most with which another one may have begun.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = _borders(stop)

    def step(self, character: str) -> bool:
        """Take a character, and return whether it completes the stop string."""
        matched = self.matched
        while matched and self.stop[matched] != character:
            matched = self._fallback[matched - 1]
        if self.stop[matched] == character:
            matched += 1
        is_complete = matched == len(self.stop)
        self.matched = self._fallback[-1] if is_complete else matched
        return is_complete


def _borders(stop: str) -> list[int]:
    """Return, for each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = borders[length - 1]
        if stop[index] == stop[length]:
            length += 1
        borders[index] = length
    return borders
