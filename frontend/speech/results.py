"""What is known of a recording's windows once they are transcribed."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its times, in seconds from the start of the recording."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token of an output, with its log probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The text of a window.

    start_s, duration_s: of the window within the recording.
    tokens: of the text and of its times, without the one that ends it; empty if it is silent.
    avg_logprob: of all tokens, the end included. no_speech_prob: None: the model has none.
    words: empty if they are not wanted.
    """

    start_s: float
    duration_s: float
    tokens: tuple[WrittenToken, ...]
    text: str
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None
    words: tuple[Word, ...] = ()


@dataclass(slots=True)
class UsedTokens:
    """The tokens of a recording's requests to workers, those of rejected texts included."""

    prompt: int = 0
    output: int = 0
    has_begun: bool = False


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of the text of a window that is not finished. tokens: that it comes from."""

    text: str
    tokens: Sequence[WrittenToken] = field(default=())


@dataclass(frozen=True, slots=True)
class RecordingEnd:
    """The end of a recording. language: its code."""

    duration_s: float
    language: str
