"""A small model that transcribes, recordings that are not decoded, and what workers write."""

from array import array
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from headrace.frontend.audio.messages import (
    AudioFormat,
    AudioRejected,
    AudioSummary,
    AudioWindow,
)
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.common.speech.speech_info import SpeechInfo, WhisperTokens
from headrace.protocol.text import TextInfo
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import byte_level

CODES = ("en", "zh", "de")
SPECIAL = ["endoftext", "startoftranscript", *CODES, "translate", "transcribe", "startofprev"]
SPECIAL += ["nospeech", "notimestamps"]
MEL_BINS, FRAMES = 80, 1024
# Of some windows: each number is that of its window, and a part of its frame.
FEATURES = [
    array("f", [window + frame / FRAMES for frame in range(FRAMES)] * MEL_BINS).tobytes()
    for window in range(6)
]
PATH = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"


def speech_text(is_multilingual: bool = True) -> ModelTokenizer:
    """A tokenizer whose last tokens are those of Whisper."""
    backend = Tokenizer.from_str(byte_level().to_str())
    first = backend.get_vocab_size()
    backend.add_special_tokens([f"<|{name}|>" for name in SPECIAL[1:]])
    backend.add_tokens([f"<|{step * 0.02:.2f}|>" for step in range(1501)])
    id_of = {name: backend.token_to_id(f"<|{name}|>") for name in SPECIAL}
    id_of["endoftext"] = first - 1  # the last text token stands for it
    tokens = WhisperTokens(
        start=id_of["startoftranscript"],
        previous=id_of["startofprev"],
        languages={code: id_of[code] for code in CODES} if is_multilingual else {},
        transcribe=id_of["transcribe"] if is_multilingual else None,
        translate=id_of["translate"] if is_multilingual else None,
        no_speech=id_of["nospeech"],
        no_timestamps=id_of["notimestamps"],
        first_timestamp=backend.token_to_id("<|0.00|>"),
        end=id_of["endoftext"],
    )
    speech = SpeechInfo(
        tokens=tokens,
        mel_bins=80,
        frames=3000,
        window_s=30.0,
        positions=448,
        suppressed_ids=(tokens.start, tokens.previous),
        first_suppressed_ids=(tokens.end,),
    )
    info = TextInfo(
        max_model_len=448,
        vocab_size=backend.get_vocab_size(),
        eos_token_ids=(tokens.end,),
        speech=speech,
    )
    return ModelTokenizer(info, backend)


@dataclass
class FakeRecordings:
    """Decodes every file to windows whose features say which they are, and which frames.

    windows: their starts and lengths, in seconds. error: raised after them; None: none is.
    files: what was decoded. changes_db: of the windows, the last of all that follow.
    """

    windows: Sequence[tuple[float, float]] = ((0.0, 4.0),)
    error: str | None = None
    duration_s: float | None = None
    changes_db: Sequence[float] = (5.0,)
    files: list[bytes] = field(default_factory=list)
    formats: list[AudioFormat] = field(default_factory=list)

    async def windows_of(self) -> AsyncGenerator[AudioWindow | AudioSummary, None]:
        for number, (start_s, duration_s) in enumerate(self.windows):
            yield AudioWindow(
                number, start_s, duration_s, FEATURES[number], self._change_db(number)
            )
        if self.error is not None:
            raise AudioRejected(self.error)
        start_s, length_s = self.windows[-1] if self.windows else (0.0, 1.0)
        duration_s = start_s + length_s if self.duration_s is None else self.duration_s
        yield AudioSummary(duration_s, len(self.windows))

    def _change_db(self, number: int) -> float:
        return self.changes_db[min(number, len(self.changes_db) - 1)]


class FakeSource:
    def __init__(self, recordings: FakeRecordings) -> None:
        self._recordings = recordings

    def windows(
        self, data: bytes | Path, format: AudioFormat, max_duration_s: float, timeout_s: float
    ) -> AsyncGenerator[AudioWindow | AudioSummary, None]:
        self._recordings.files.append(data.read_bytes() if isinstance(data, Path) else data)
        self._recordings.formats.append(format)
        return self._recordings.windows_of()


Part = str | float
Script = Callable[[int, Generate], Sequence[Part]]


@dataclass
class Workers:
    """What workers write for windows.

    script: texts and times (numbers) of a window. language: that they detect.
    no_speech, logprob: of a request. spoken_s: of each token of an alignment.
    """

    text: ModelTokenizer
    script: Script
    language: str = "de"
    no_speech: Callable[[Generate], float] = field(default=lambda _: 0.01)
    logprob: Callable[[Generate], float] = field(default=lambda _: -0.25)
    spoken_s: float = 0.5

    def __post_init__(self) -> None:
        info = self.text.info.speech
        assert info is not None
        self.tokens = info.tokens

    def ids(self, parts: Sequence[Part]) -> list[int]:
        found: list[int] = []
        for part in parts:
            if isinstance(part, str):
                found += self.text.backend.encode(part, add_special_tokens=False).ids
            else:
                found.append(self.tokens.first_timestamp + round(part / 0.02))
        return found

    def reply(self, request: Generate) -> list[int]:
        assert request.audio is not None
        if request.audio.alignment is not None:
            return [self.tokens.end]
        if request.sampling.allowed_token_ids:
            return [self.tokens.languages[self.language]]
        parts = self.script(window_of(request), request)
        return [*self.ids(parts), self.tokens.end]

    def change(self, request: Generate, output: Output) -> Output:
        audio = request.audio
        assert audio is not None
        logprobs = tuple(
            replace(each, logprob=self.logprob(request)) for each in output.logprobs or ()
        )
        output = replace(output, logprobs=logprobs or output.logprobs)
        if output.admission is None:
            return output
        changes: dict[str, Any] = {}
        if audio.alignment is not None:
            count = len(request.prompt_token_ids) - audio.alignment.first + 1
            starts = tuple(self.spoken_s * number for number in range(count))
            changes = {"token_starts": starts}
        elif audio.no_speech_id is not None:
            changes = {"no_speech_prob": self.no_speech(request)}
        return replace(output, admission=replace(output.admission, **changes))

    def join(self, pool: FakePool) -> None:
        """Work for a pool."""
        pool.reply, pool.change = self.reply, self.change


def window_of(request: Generate) -> int:
    """The number of the window that a request is about."""
    return int(first_feature(request))


def first_frame(request: Generate) -> int:
    """The first frame of its window that a request is about."""
    return round(first_feature(request) % 1 * FRAMES)


def first_feature(request: Generate) -> float:
    assert request.audio is not None
    return array("f", request.audio.features)[0]
