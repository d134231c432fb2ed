"""Split the text of a window where the model has written times.

Source of the format: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision"
(2022): a segment stands between two tokens of time, so that two of them follow each other where one
segment ends and the next begins.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from headrace.frontend.speech.results import WindowResult
from headrace.protocol.common.speech.speech_info import WhisperTokens

Decode = Callable[[Sequence[int]], str]
FRAME_S = 0.01  # of `seek`


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording's text. start_s, end_s: in seconds from the recording's start."""

    start_s: float
    end_s: float
    text: str
    token_ids: tuple[int, ...]
    window: WindowResult


def segments_of(
    results: Sequence[WindowResult], tokens: WhisperTokens, decode: Decode
) -> list[Segment]:
    """Return the segments of a recording, in order; none of them ends before it begins, or begins
    before the one in front of it has ended."""
    found: list[Segment] = []
    last_s = 0.0
    for result in results:
        for start_s, end_s, ids in _times(result, tokens):
            text = decode([each for each in ids if each < tokens.end])
            if not text.strip():
                continue
            start_s = max(last_s, start_s)
            last_s = max(start_s, end_s)
            found.append(Segment(start_s, last_s, text, ids, result))
    return found


def _times(
    result: WindowResult, tokens: WhisperTokens
) -> Iterator[tuple[float, float, tuple[int, ...]]]:
    """Yield the start, the end and the tokens of each segment."""
    for ids in _slices([each.token_id for each in result.tokens], tokens.first_timestamp):
        first, last = ids[0], ids[-1]
        start_s, end_s = 0.0, result.duration_s
        if first >= tokens.first_timestamp:
            start_s = (first - tokens.first_timestamp) * tokens.step_s
        if last >= tokens.first_timestamp and len(ids) > 1:
            end_s = (last - tokens.first_timestamp) * tokens.step_s
        start_s = min(start_s, result.duration_s)
        end_s = min(max(end_s, start_s), result.duration_s)
        yield result.start_s + start_s, result.start_s + end_s, ids


def _slices(token_ids: Sequence[int], first_timestamp: int) -> Iterator[tuple[int, ...]]:
    """Yield the tokens of each segment: its times and what is between them."""
    start = 0
    for position in range(1, len(token_ids)):
        if token_ids[position] >= first_timestamp and token_ids[position - 1] >= first_timestamp:
            yield tuple(token_ids[start:position])
            start = position
    if start < len(token_ids):
        yield tuple(token_ids[start:])
