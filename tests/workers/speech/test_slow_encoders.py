"""An encoder that takes longer than a worker may stay silent, from its first window on."""

import time
from typing import Any

import pytest
import torch

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.speech import AudioInput
from headrace.protocol.to_worker import Generate
from headrace.workers import progress
from headrace.workers.sequence.sequence import Chunk, Sequence
from headrace.workers.speech.backing import DecoderRows, SpeechFacts
from headrace.workers.speech.runner import SpeechRunner
from headrace.workers.speech.source_slots import SourceSlots

FACTS = SpeechFacts(
    vocab_size=8, mel_bins=2, frames=4, positions=2, longest=16, heads=(), size=4, position_s=0.02
)


class SlowBacking:
    """Takes a third of a second for a window, and writes the token 5."""

    def encode(self, features: torch.Tensor, slot: int) -> None:
        time.sleep(0.3)

    def decode(self, rows: DecoderRows) -> tuple[torch.Tensor, None]:
        logits = torch.zeros((len(rows.wanted), 8))
        logits[:, 5] = 9.0
        return logits, None

    def start(self, num_blocks: int, num_slots: int) -> None: ...


def test_the_first_window_is_reported_while_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REPORT_S", 0.02)
    slots = SourceSlots(2)
    backing: Any = SlowBacking()
    runner = SpeechRunner(
        backing, FACTS, max_model_len=16, num_blocks=4, block_size=16, slots=slots
    )
    reports: list[float] = []
    runner.on_progress = lambda: reports.append(time.monotonic())
    audio = AudioInput(bytes(2 * 4 * 4), b"window")
    request = Generate(
        "x", (1, 2), SamplingParams(seed=0, max_tokens=3, temperature=0), audio=audio
    )
    slots.join(audio.digest)
    sequence = Sequence.of(request, 0, 0.0)
    sequence.blocks = [0]
    (result,) = runner.run([Chunk(sequence, 0, 2, True)])
    assert result.token_id == 5
    assert len(reports) > 3
