from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.whisper import generation_whisper

from headrace.protocol.config import CpuKernels
from headrace.protocol.speech import Alignment
from headrace.workers.native.library import usable_kernels
from headrace.workers.speech import align
from tests.workers.speech.windows import (
    START,
    engine_of,
    features_of,
    load_reference,
    request,
    run_all,
    window,
)


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (12, 40), (40, 12), (30, 700)])
def test_paths_are_those_of_transformers(shape: tuple[int, int]) -> None:
    costs = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    rows, columns = align._warp(costs)
    expected_rows, expected_columns = generation_whisper._dynamic_time_warping(costs)
    assert rows.tolist() == list(expected_rows)
    assert columns.tolist() == list(expected_columns)


def test_the_filter_is_that_of_transformers() -> None:
    values = torch.randn((4, 11, 60), generator=torch.Generator().manual_seed(2))
    expected = generation_whisper._median_filter(values[None], 7)[0]
    assert torch.equal(align._median_filter(values), expected)


@pytest.mark.parametrize("kernels", ["torch", *usable_kernels()])
@pytest.mark.parametrize("step_tokens", [512, 8])  # whole, and in pieces
def test_starts_follow_the_attention_of_the_named_heads(
    whisper_folder: Path, kernels: CpuKernels, step_tokens: int
) -> None:
    prompt = (*START, 20, 31, 42, 53, 64, 75, 86, 97, 1)
    engine = engine_of(whisper_folder, cpu_kernels=kernels, max_num_batched_tokens=step_tokens)
    audio = window(5, alignment=Alignment(len(START), 30))
    admission = run_all(engine, [request("x", audio, prompt, max_tokens=1)])["x"][0].admission
    assert admission is not None
    model = load_reference(whisper_folder, attn_implementation="eager")
    with torch.inference_mode():
        output = model(
            input_features=features_of(5)[None],
            decoder_input_ids=torch.tensor([prompt]),
            output_attentions=True,
        )
    weights = [output.cross_attentions[layer][0, head] for layer, head in ((1, 0), (0, 2))]
    cut = torch.stack(weights)[:, :, :30]
    scores = torch.log2(cut)
    assert len(admission.token_starts) == len(prompt) - len(START) + 1
    assert admission.token_starts[-1] == pytest.approx(0.6)
    expected = align.token_starts(scores, len(START), 30, 0.02)
    assert admission.token_starts == pytest.approx(expected, abs=0.021)
    assert list(admission.token_starts) == sorted(admission.token_starts)
