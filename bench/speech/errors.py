"""Word error rates and times of segments, compared after Whisper's rules for English text."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jiwer
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

Segments = Sequence[tuple[float, float, str]]


@functools.cache
def _normalizer() -> Callable[[str], str]:
    made: Any = EnglishTextNormalizer  # it has no types
    return cast(Callable[[str], str], made({}))  # without a table of British spellings


def normal(text: str) -> str:
    """Return a text in lower case, without punctuation, numbers as digits."""
    return _normalizer()(text).strip()


@dataclass(frozen=True, slots=True)
class WordErrors:
    """How many words of a text are wrong: substituted, left out, or invented."""

    wrong: int
    words: int

    @property
    def rate(self) -> float:
        """Wrong words over words that are said; of silence the invented words themselves."""
        return self.wrong / max(self.words, 1)


def word_errors(said: str, heard: str) -> WordErrors:
    """Compare what was heard with what is said."""
    said, heard = normal(said), normal(heard)
    if not said:
        return WordErrors(len(heard.split()), 0)
    found = jiwer.process_words(said, heard)
    return WordErrors(found.substitutions + found.deletions + found.insertions, len(said.split()))


def pooled(errors: Sequence[WordErrors]) -> WordErrors:
    """Return the errors of several texts as of one."""
    return WordErrors(sum(each.wrong for each in errors), sum(each.words for each in errors))


def time_differences(ours: Segments, theirs: Segments) -> list[float]:
    """Return by how many seconds starts and ends differ, of segments with the same text in both."""
    times: Mapping[str, tuple[float, float]] = {
        normal(text): (start, end) for start, end, text in theirs
    }
    found = list[float]()
    for start, end, text in ours:
        if (key := normal(text)) in times:
            found += [abs(start - times[key][0]), abs(end - times[key][1])]
    return found


def are_ordered(segments: Segments) -> bool:
    """Tell whether each segment ends after its start and starts after the one before it."""
    last = 0.0
    for start, end, _ in segments:
        if not last <= start <= end:
            return False
        last = start
    return True
