"""Join tokens to words, and give these the times at which they are spoken."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from headrace.frontend.speech.results import Word
from headrace.protocol.common.speech.languages import UNSPACED

Decode = Callable[[Sequence[int]], str]
# Marks that belong to the word after them, and to the one before them.
_OPENING: Final = frozenset("\"'“¿¡([{-«„‘")
_CLOSING: Final = frozenset("\"'.。,，!！?？:：”)]}、»’;；…")
_ENDS: Final = frozenset(".。!！?？")
# The longest a word is taken to be, where the alignment of a sentence's first or last one includes
# the pause beside it: twice the median, which itself is at most so many seconds.
_LONGEST_MEDIAN_S: Final = 0.7


@dataclass(frozen=True, slots=True)
class _Part:
    """The text of some tokens that follow each other."""

    text: str
    first: int
    end: int


def words_of(
    token_ids: Sequence[int],
    starts_s: Sequence[float],
    language: str,
    decode: Decode,
    offset_s: float,
    duration_s: float,
) -> tuple[Word, ...]:
    """Return the words of a window with their times.

    starts_s: of each token, and last of what follows them. offset_s: of the window in its
        recording. duration_s: of the window.
    """
    parts = _whole_characters(token_ids, decode)
    if language not in UNSPACED:
        parts = _joined_by_spaces(parts)
    parts = _with_marks(parts)
    words, last_s = [], 0.0
    for part in parts:
        if not part.text.strip():
            continue
        start_s = min(max(last_s, starts_s[part.first]), duration_s)
        last_s = min(max(start_s, starts_s[part.end]), duration_s)
        words.append(Word(part.text.strip(), offset_s + start_s, offset_s + last_s))
    return _without_pauses(words)


def _whole_characters(token_ids: Sequence[int], decode: Decode) -> list[_Part]:
    """Return the tokens, joined where a character is written by several."""
    parts, first = [], 0
    for end in range(1, len(token_ids) + 1):
        text = decode(token_ids[first:end])
        if text.endswith("\ufffd") and end < len(token_ids) and end - first < 8:
            continue
        parts.append(_Part(text, first, end))
        first = end
    return parts


def _joined_by_spaces(parts: Sequence[_Part]) -> list[_Part]:
    """Return the parts, joined to those before them unless a space begins them."""
    words: list[_Part] = []
    for part in parts:
        if not words or part.text.startswith(" "):
            words.append(part)
        else:
            words[-1] = _join(words[-1], part)
    return words


def _with_marks(parts: Sequence[_Part]) -> list[_Part]:
    """Return the parts with marks joined to the words that they belong to."""
    words: list[_Part] = []
    for part in reversed(parts):
        mark = part.text.strip()
        opens = part.text.startswith(" ") and mark != "" and set(mark) <= _OPENING
        if opens and words:
            words[-1] = _join(part, words[-1])
        else:
            words.append(part)
    words.reverse()
    closed: list[_Part] = []
    for part in words:
        is_mark = part.text != "" and set(part.text) <= _CLOSING
        if is_mark and closed and not closed[-1].text.endswith(" "):
            closed[-1] = _join(closed[-1], part)
        else:
            closed.append(part)
    return closed


def _join(first: _Part, second: _Part) -> _Part:
    return _Part(first.text + second.text, first.first, second.end)


def _without_pauses(words: Sequence[Word]) -> tuple[Word, ...]:
    """Return the words; those at a sentence's border are cut where they are far too long."""
    lengths = [word.end_s - word.start_s for word in words if word.end_s > word.start_s]
    if not lengths:
        return tuple(words)
    longest_s = 2 * min(statistics.median(lengths), _LONGEST_MEDIAN_S)
    cut = list(words)
    for number, word in enumerate(words):
        if word.end_s - word.start_s <= longest_s:
            continue
        begins = number == 0 or words[number - 1].text[-1] in _ENDS
        if word.text[-1] in _ENDS:
            cut[number] = replace(word, end_s=word.start_s + longest_s)
        elif begins:
            cut[number] = replace(word, start_s=word.end_s - longest_s)
    return tuple(cut)
