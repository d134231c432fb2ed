"""Transcribe without a model: tokens are a function of the window's digest and of their places.

For tests, and for measuring all but the model. A transcript has a few words, between timestamps
where the request wants them, and ends with the request's first end token. Where only some tokens
are allowed, one of them is taken.
"""

import dataclasses
import json
from collections.abc import Sequence as Items
from pathlib import Path
from zlib import crc32

from headrace.protocol.speech import AudioInput
from headrace.protocol.to_frontend import Logprobs
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.errors import ModelUnsupported
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from headrace.workers.sequence.sequence import Sequence as EngineSequence
from headrace.workers.speech.source_slots import SourceSlots

_FEWEST_WORDS, _MOST_WORDS = 3, 10
_STEPS_EACH = 20  # between a transcript's first and last timestamp, for each word
_NO_SPEECH = 0.01
_ENCODE_S = 0.001
_POSITION_S = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class FakeSpeechSizes:
    """Sizes of a model, as its files say; see headrace.workers.speech.backing.SpeechFacts."""

    vocab_size: int
    mel_bins: int
    frames: int
    positions: int
    longest: int


class FakeSpeechRunner(FakeRunner):
    """A runner that takes `step_s` seconds a step, and hears nothing."""

    def __init__(
        self,
        facts: FakeSpeechSizes,
        *,
        max_model_len: int,
        num_blocks: int,
        block_size: int,
        num_slots: int,
        step_s: float = 0.0,
        choices: Items[int] = (),
    ) -> None:
        super().__init__(
            vocab_size=facts.vocab_size,
            max_model_len=max_model_len,
            num_blocks=num_blocks,
            block_size=block_size,
            step_s=step_s,
            choices=choices,
        )
        self.facts = facts
        self.slots = SourceSlots(num_slots)

    def run(self, chunks: Items[Chunk]) -> list[ChunkResult]:
        for chunk in chunks:
            digest = chunk.sequence.window
            if not self.slots.is_filled(digest):
                self.slots.fill(digest, self._step_s or _ENCODE_S)
        return super().run(chunks)

    def _run_chunk(self, chunk: Chunk) -> ChunkResult:
        audio = _audio_of(chunk.sequence.request)
        result = ChunkResult()
        if chunk.samples:
            token_id = self._next_token(chunk.sequence, ())
            result = ChunkResult(token_id, Logprobs(token_id, -0.1, 1))
        if audio.no_speech_id is not None and chunk.start <= audio.no_speech_position < chunk.end:
            result = dataclasses.replace(result, no_speech_prob=_NO_SPEECH)
        if audio.alignment is not None and chunk.samples:
            count = chunk.sequence.num_prompt - audio.alignment.first
            step = audio.alignment.frames * _POSITION_S / count
            starts = tuple(index * step for index in range(count + 1))
            result = dataclasses.replace(result, token_starts=starts)
        return result

    def _next_token(self, sequence: EngineSequence, drafts: tuple[int, ...]) -> int:
        request, audio = sequence.request, _audio_of(sequence.request)
        place = sequence.num_outputs
        allowed = request.sampling.allowed_token_ids
        if allowed:
            return allowed[crc32(audio.digest) % len(allowed)]
        words = _FEWEST_WORDS + audio.digest[0] % (_MOST_WORDS - _FEWEST_WORDS + 1)
        end = request.sampling.eos_token_ids[0] if request.sampling.eos_token_ids else 0
        if audio.timestamps is not None:
            first = audio.timestamps.first_id
            if place in (0, words + 1):
                return first + (_STEPS_EACH * words if place else 0)
            place -= 1
        if place >= words:
            return end
        forbidden = {*audio.suppressed_ids, *audio.first_suppressed_ids, end}
        number = crc32(audio.digest + place.to_bytes(4, "little"))
        for _ in range(len(self._choices)):
            number += 1
            token_id = self._choices[number % len(self._choices)]
            if token_id not in forbidden and token_id < (end or self.vocab_size):
                return token_id
        return end


def _audio_of(request: Generate) -> AudioInput:
    assert request.audio is not None
    return request.audio


def read_sizes(model_path: Path) -> FakeSpeechSizes:
    """Return a model's sizes from its folder. Raises ModelUnsupported if a file says none."""
    try:
        values = json.loads((model_path / "config.json").read_text())
        positions = int(values["max_source_positions"])
        return FakeSpeechSizes(
            vocab_size=int(values["vocab_size"]),
            mel_bins=int(values["num_mel_bins"]),
            frames=2 * positions,
            positions=positions,
            longest=int(values["max_target_positions"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnsupported(f"{model_path}: config.json lacks sizes of a model") from error
