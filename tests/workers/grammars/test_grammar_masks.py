"""Masks on logits: what they forbid, and what they leave as it was."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch

from headrace.workers.grammars.apply import apply_masks
from headrace.workers.sampling.sampler import sample
from headrace.workers.sequence.grammar_state import GrammarState
from headrace.workers.sequence.mask import Mask, MaskRows
from headrace.workers.sequence.sequence import Sequence
from tests.workers.driving import request


@dataclass
class State:
    """As much of a GrammarState as choosing a token needs."""

    mask: Mask | None

    def mask_after(self, num_drafts: int) -> Mask | None:
        return self.mask and Mask(self.mask.rows, self.mask.row + num_drafts)


def masked_texts(allowed: list[set[int] | None], size: int, **params: Any) -> list[Sequence]:
    """Texts of which each may continue with these tokens; None: with any."""
    rows = MaskRows(sum(some is not None for some in allowed), -(-size // 32) * 4)

    def work(bits: bytearray) -> None:
        for row, some in enumerate([some for some in allowed if some is not None]):
            for token_id in some:
                bits[row * rows.row_bytes + token_id // 8] |= 1 << token_id % 8

    rows.fill(ThreadPoolExecutor(1), work)
    texts, row = [], 0
    for number, some in enumerate(allowed):
        text = Sequence.of(request(str(number), (1,), **params), number, 0.0)
        if some is not None:
            text.grammar = cast(GrammarState, State(Mask(rows, row)))
            row += 1
        texts.append(text)
    return texts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [8, 61, 1000])
@pytest.mark.parametrize("free", [(), (0,), (1, 3)])
def test_only_what_is_allowed_stays_possible(
    dtype: torch.dtype, size: int, free: tuple[int, ...]
) -> None:
    torch.manual_seed(size)
    logits = torch.randn(5, size).to(dtype)
    allowed = [
        None if row in free else set(torch.randperm(size)[: row * 7 + 1].tolist())
        for row in range(5)
    ]
    expected = logits.clone()
    for row, some in enumerate(allowed):
        if some is not None:
            others = [token_id for token_id in range(size) if token_id not in some]
            expected[row, others] = -math.inf
    # As runners give them: rows of a larger memory.
    memory = torch.zeros(5, size + 8, dtype=dtype)
    given = memory[:, :size]
    given.copy_(logits)
    apply_masks(given, masked_texts(allowed, size))
    assert torch.equal(given, expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chosen_are_allowed_tokens_and_log_probabilities_are_the_models_own(
    temperature: float,
) -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 300)
    allowed = [{7, 250}, None, {299}]
    texts = masked_texts(allowed, 300, temperature=temperature, logprobs=2)
    free = torch.log_softmax(logits, dim=-1)
    results = sample(logits.clone(), texts)
    for row, (some, result) in enumerate(zip(allowed, results, strict=True)):
        assert some is None or result.token_id in some
        assert result.logprobs is not None
        assert result.logprobs.logprob == pytest.approx(free[row, result.token_id].item())
        assert result.logprobs.top_logprobs[0] == pytest.approx(free[row].max().item())
    if temperature == 0:
        assert allowed[0] is not None
        assert results[0].token_id == max(allowed[0], key=lambda token_id: logits[0, token_id])


def test_ends_that_come_too_early_are_forbidden_among_what_is_allowed() -> None:
    logits = torch.zeros(1, 64)
    logits[0, 5] = 9.0
    ends = {"eos_token_ids": (5,), "min_tokens": 3}
    assert sample(logits.clone(), masked_texts([{5, 8}], 64, **ends))[0].token_id == 8
    assert sample(logits.clone(), masked_texts([{5}], 64, **ends))[0].token_id == 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_grammar_and_allowed_tokens_exclude_together_is_told_as_such(
    temperature: float,
) -> None:
    """And not as a fault of the model's."""
    fields = {"temperature": temperature, "allowed_token_ids": (4, 5)}
    texts = masked_texts([{1, 2}, {5, 6}, {4}], 70, **fields)
    logits = torch.randn(3, 70)
    logits[2, 9] = math.nan
    excluded, held, broken = sample(logits, texts)
    assert excluded.token_id is None
    assert "excludes each other" in str(excluded.error)
    assert (held.token_id, held.error) == (5, None)
    assert "not finite" in str(broken.error)
