"""Find what a model has left of a window, and make a window of it.

A model that writes times may end its output at a segment that it cannot finish, with the time at
which that begins. Whisper's authors then continue from there (Radford et al., 2022).
"""

from array import array
from dataclasses import dataclass, replace

from headrace.frontend.audio.messages import AudioWindow
from headrace.frontend.speech.plan import SpeechPlan
from headrace.frontend.speech.results import WrittenToken

# Continuations of a window.
MAX_PARTS = 8
# What is shorter holds no word.
_SHORTEST_S = 0.3
# How far features are below the loudest at most: log-mel energies end 8 below it, over 4.
_RANGE = 2.0


@dataclass(frozen=True, slots=True)
class Part:
    """A window, or what was left of it. number: of the parts that a window has had."""

    window: AudioWindow
    number: int = 0


def rest_of(
    part: Part, tokens: tuple[WrittenToken, ...], plan: SpeechPlan
) -> tuple[Part | None, tuple[WrittenToken, ...]]:
    """Return the part after a text that ends where a segment begins, None if there is none; and the
    text's tokens without that beginning."""
    first = plan.tokens.first_timestamp
    if len(tokens) < 2 or tokens[-1].token_id < first or tokens[-2].token_id < first:
        return None, tokens
    start_s = (tokens[-1].token_id - first) * plan.tokens.step_s
    is_last = part.number + 1 >= MAX_PARTS
    if is_last or start_s <= 0 or part.window.duration_s - start_s < _SHORTEST_S:
        return None, tokens[:-1]
    window = part.window
    rest = replace(
        window,
        start_s=window.start_s + start_s,
        duration_s=window.duration_s - start_s,
        features=_from_frame(window.features, plan.info.mel_bins, round(start_s * 100)),
    )
    return Part(rest, part.number + 1), tokens[:-1]


def _from_frame(features: bytes, mel_bins: int, first: int) -> bytes:
    """Return features from a frame on, with silence after their end."""
    numbers = array("f", features)
    frames = len(numbers) // mel_bins
    rows = [numbers[row * frames + first : (row + 1) * frames] for row in range(mel_bins)]
    floor = max(max(row) for row in rows) - _RANGE
    silence = array("f", [floor]) * first
    return b"".join((row + silence).tobytes() for row in rows)
