"""What frontends know of a model that transcribes, beside what they know of every model."""

from typing import Annotated, Literal

from pydantic import Field

from headrace.protocol.engine_config import Frozen

Count = Annotated[int, Field(ge=1)]
TokenNumber = Annotated[int, Field(ge=0)]


class WhisperTokens(Frozen):
    """The tokens by which Whisper is told what to do, and by which it tells times.

    start: begins every prompt. previous: begins the text that went before, in front of that.
    languages: by code; empty: the model knows English alone. transcribe, translate: the tasks; None
        if there is only one, which has no token.
    no_speech: whose probability after `start` tells silence from speech; None: the model has none.
    no_timestamps: ends a prompt whose output has none. first_timestamp: of 0 s; those above it
        follow in steps of `step_s` seconds, up to the length of a window.
    end: ends an output; no token of text is above it.
    """

    start: TokenNumber
    previous: TokenNumber
    languages: dict[str, TokenNumber] = Field(default_factory=dict)
    transcribe: TokenNumber | None = None
    translate: TokenNumber | None = None
    no_speech: TokenNumber | None = None
    no_timestamps: TokenNumber
    first_timestamp: TokenNumber
    end: TokenNumber
    step_s: Annotated[float, Field(gt=0)] = 0.02


class SpeechInfo(Frozen):
    """How a model that transcribes takes recordings, and what of its outputs is ruled out.

    family: whose prompts and outputs it has. tokens: of that family.
    mel_bins, frames: numbers of a window: log-mel energies of each frame, and frames.
    window_s: seconds of a window.
    positions: tokens of prompt and output together, at most.
    suppressed_ids: never sampled. first_suppressed_ids: nor these as an output's first token.
    max_initial_timestamp: steps after 0 s at which the first text may begin, at most.
    """

    family: Literal["whisper"] = "whisper"
    tokens: WhisperTokens
    mel_bins: Count
    frames: Count
    window_s: Annotated[float, Field(gt=0)]
    positions: Count
    suppressed_ids: tuple[TokenNumber, ...] = ()
    first_suppressed_ids: tuple[TokenNumber, ...] = ()
    max_initial_timestamp: TokenNumber = 50

    @property
    def is_multilingual(self) -> bool:
        return bool(self.tokens.languages)
