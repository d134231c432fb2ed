"""The rules for timestamps are compared with transformers' own."""

import random
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.speech import AudioInput, TimestampRule
from headrace.protocol.to_worker import Generate
from headrace.workers.sampling.heard import forbid_unheard
from headrace.workers.sequence.sequence import Sequence

END, FIRST, SIZE, INITIAL = 30, 40, 100, 10  # 39 is the token of transcripts without timestamps


def sequence_of(output: list[int], **fields: object) -> Sequence:
    audio = AudioInput(b"", b"x", **fields)  # type: ignore[arg-type]
    params = SamplingParams(seed=0, max_tokens=99, eos_token_ids=(END,))
    return Sequence.of(Generate("x", (31, 32), params, tuple(output), audio=audio), 0, 0.0)


def outputs() -> list[list[int]]:
    """Outputs that the rules allow, and some that they do not."""
    chance = random.Random(4)
    found: list[list[int]] = [[], [FIRST], [FIRST, 3], [FIRST, 3, FIRST + 5]]
    found += [[FIRST, 3, FIRST + 5, FIRST + 5], [FIRST, FIRST], [5, 6]]
    for _ in range(30):
        size = chance.randrange(1, 9)
        found.append([chance.choice([chance.randrange(30), FIRST + size]) for _ in range(size)])
    return found


@pytest.mark.parametrize("output", outputs(), ids=str)
@pytest.mark.parametrize("timed", [False, True])
def test_timestamps_as_transformers_has_them(output: list[int], timed: bool) -> None:
    generator = torch.Generator().manual_seed(len(output))
    logits = torch.randn((1, SIZE), generator=generator)
    if timed:
        logits[:, FIRST:] += 2
    config: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=END, no_timestamps_token_id=FIRST - 1, max_initial_timestamp_index=INITIAL
    )
    processor = WhisperTimeStampLogitsProcessor(config, begin_index=2)
    expected = processor(torch.tensor([[31, 32, *output]]), logits.clone())
    rule = TimestampRule(FIRST, INITIAL)
    forbid_unheard(logits, [sequence_of(output, timestamps=rule)])
    # Tokens between the end and the timestamps are never wanted, and forbidden by name.
    kept = [*range(END + 1), *range(FIRST - 1, SIZE)]
    assert torch.equal(logits[0, kept], expected[0, kept])


def test_forbidden_tokens() -> None:
    logits = torch.zeros((2, SIZE))
    fields = {"suppressed_ids": (3, 4), "first_suppressed_ids": (5,)}
    forbid_unheard(logits, [sequence_of([], **fields), sequence_of([8], **fields)])
    forbidden = [[int(token) for token in torch.nonzero(torch.isinf(row))] for row in logits]
    assert forbidden == [[3, 4, 5], [3, 4]]
