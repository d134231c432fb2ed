"""Where a text meets a stop string, however the text is split into pieces.

Each stop string is followed by a Knuth–Morris–Pratt automaton, one character at a time: linear in
the text, whatever the strings are, and blind to where a piece ends.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """text: what may still be shown. stop: the string that was met, None if none was."""

    text: str
    stop: str | None = None


class StopMatcher:
    """Passes text on, and holds back only what may be the beginning of a stop string.

    The first stop string to be complete ends the text; of several that end at the same character,
    the longest. include_stop: whether it is shown itself.
    """

    def __init__(self, stops: tuple[str, ...], include_stop: bool) -> None:
        # The longest first, so that the first automaton to accept is the longest match.
        ordered = sorted(set(stops), key=len, reverse=True)
        self._automata = [_Automaton(stop) for stop in ordered]
        self._include_stop = include_stop
        self._held = ""

    @property
    def is_empty(self) -> bool:
        """Whether there are no stop strings to look for, so that all text passes."""
        return not self._automata

    def feed(self, text: str) -> StopMatch:
        """What can be shown now. After a match the matcher is spent."""
        if not self._automata:
            return StopMatch(text)
        buffer = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            met = [automaton for automaton in self._automata if automaton.step(character)]
            if met:
                stop = met[0].stop
                return StopMatch(buffer[: end if self._include_stop else end - len(stop)], stop)
        held = max(automaton.matched for automaton in self._automata)
        self._held = buffer[len(buffer) - held :]
        return StopMatch(buffer[: len(buffer) - held])

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        for automaton in self._automata:
            automaton.matched = 0
        return held


class _Automaton:
    """matched: how many characters of the stop string the text now ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = _borders(stop)

    def step(self, character: str) -> bool:
        """Whether the string is complete with this character."""
        matched = self.matched
        while matched and self.stop[matched] != character:
            matched = self._fallback[matched - 1]
        if self.stop[matched] == character:
            matched += 1
        self.matched = matched
        return matched == len(self.stop)


def _borders(stop: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = borders[length - 1]
        if stop[index] == stop[length]:
            length += 1
        borders[index] = length
    return borders
