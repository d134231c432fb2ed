"""The kernel that draws tokens against the definitions, in float64 and by sorting."""

import math
from typing import Any

import pytest
import torch

from headrace.protocol.config import KernelSet
from headrace.protocol.sampling import SamplingParams
from headrace.workers.native import draw as drawing
from headrace.workers.native.draw import draw
from headrace.workers.sampling import sampler
from headrace.workers.sampling.sampler import sample
from headrace.workers.sequence.sequence import Sequence
from tests.workers.driving import request
from tests.workers.processors import needs_kernels, on_slower_sets

pytestmark = needs_kernels

# What rounding may do to a probability or to the sum of some.
NEAR = 1e-6

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 40.0},
    {"top_k": 1},
    {"top_k": 40},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 1e-7},
    {"top_p": 0.9999999},
    {"min_p": 0.02},
    {"min_p": 1.0},
    {"top_k": 100, "top_p": 0.9, "min_p": 0.001, "temperature": 1.4},
]


def samplings(count: int, **params: Any) -> list[SamplingParams]:
    params = {"temperature": 1.0, **params}
    return [request("r", (1,), seed=seed, **params).sampling for seed in range(count)]


def rows(kind: str, count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn((count, size), generator=generator)
    return {
        "flat": logits * 0.01,
        "random": logits,
        "peaked": logits * 6,
        "tied": (logits * 3).round(),
        "cut": torch.where(logits > 0.5, logits, float("-inf")),
    }[kind]


def uniforms(count: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights_of(logits: torch.Tensor, sampling: SamplingParams, top_p: float) -> torch.Tensor:
    """The weights of a row's tokens after all cuts, which keep what ties with the last."""
    levels = (logits.double() - logits.max()) / sampling.temperature
    ordered = levels.sort(descending=True).values
    floor = math.log(sampling.min_p) if sampling.min_p else -math.inf
    if 0 < sampling.top_k < len(levels):
        floor = max(floor, float(ordered[sampling.top_k - 1]))
    if top_p < 1:
        kept = ordered[ordered >= floor].exp()
        short = int((kept.cumsum(0) < top_p * kept.sum()).sum())
        floor = max(floor, float(ordered[min(short, len(kept) - 1)]))
    return torch.where(levels >= floor, levels.exp(), 0.0)


def allowed(logits: torch.Tensor, sampling: SamplingParams, uniform: float) -> set[int]:
    """The tokens that are right if shares and the uniform number are off by rounding."""
    tokens = set()
    shares = {sampling.top_p}
    if sampling.top_p < 1:
        shares |= {sampling.top_p - NEAR, min(1.0, sampling.top_p + NEAR)}
    for share in shares:
        weights = weights_of(logits, sampling, share)
        cumulative = weights.cumsum(0)
        last = int(weights.nonzero().max())
        for value in (uniform - NEAR, uniform, uniform + NEAR):
            index = torch.searchsorted(cumulative, value * cumulative[-1], right=True)
            tokens.add(min(int(index), last))
    return tokens


def drawn(logits: torch.Tensor, some: list[SamplingParams], numbers: torch.Tensor) -> list[int]:
    token_ids, possible = draw(logits, range(len(logits)), some, numbers.tolist())
    assert possible.all()
    return token_ids.tolist()


@pytest.mark.parametrize("kind", ["flat", "random", "peaked", "tied", "cut"])
@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_tokens_are_those_of_the_definitions(kind: str, params: dict[str, float]) -> None:
    logits, numbers = rows(kind, 40, 1500), uniforms(40)
    some = samplings(40, **params)
    for row, token_id in enumerate(drawn(logits, some, numbers)):
        assert token_id in allowed(logits[row], some[row], float(numbers[row]))


@on_slower_sets
@pytest.mark.parametrize("kind", ["random", "cut"])
def test_tokens_on_each_set(kind: str, kernel_set: KernelSet) -> None:
    for params in SETTINGS:
        test_tokens_are_those_of_the_definitions(kind, params)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 255, 256, 257, 513])
def test_vocabularies_of_any_size(size: int) -> None:
    logits, numbers = rows("random", 30, size), uniforms(30)
    for params in ({}, {"top_k": 3}, {"top_p": 0.8}, {"top_k": 2**40}):
        some = samplings(30, **params)
        for row, token_id in enumerate(drawn(logits, some, numbers)):
            assert token_id in allowed(logits[row], some[row], float(numbers[row]))


def texts(count: int, **params: Any) -> list[Sequence]:
    params = {"temperature": 1.0, **params}
    return [Sequence.of(request("r", (1,), seed=seed, **params), 0, 0.0) for seed in range(count)]


@pytest.mark.parametrize("kind", ["random", "peaked"])
def test_torchs_operations_choose_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text continues alike on a worker without the kernel; only ties by rounding may part."""
    logits = rows(kind, 24, 49152)
    different = 0
    for params in SETTINGS:
        sequences = texts(24, **params)
        ours = [result.token_id for result in sample(logits, sequences)]
        with monkeypatch.context() as patch:
            patch.setattr(sampler, "can_draw", lambda device: False)
            theirs = [result.token_id for result in sample(logits, sequences)]
        different += sum(a != b for a, b in zip(ours, theirs, strict=True))
    assert different <= 2


def test_uniforms_at_the_ends_give_tokens_that_are_possible() -> None:
    logits = torch.tensor([[-1.0, 2.0, 1.0, float("-inf"), -2.0]]).expand(4, -1)
    some = samplings(4, top_k=2)
    ends = torch.tensor([0.0, 1 - 2**-52, 1 - 2**-53, 1.0], dtype=torch.float64)
    assert drawn(logits, some, ends) == [1, 2, 2, 2]


def test_chosen_rows_of_a_wider_table_and_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = rows("random", 50, 700)
    wide = torch.cat([table, torch.full((50, 33), 1e9)], dim=1)[:, :700]
    numbers = uniforms(50)
    some = [one for params in SETTINGS[:10] for one in samplings(5, **params)]
    expected = drawn(table, some, numbers)
    assert drawn(wide, some, numbers) == expected
    assert drawn(table.t().contiguous().t(), some, numbers) == expected
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert drawn(table, some, numbers) == expected
    chosen = [41, 3, 17]
    token_ids, _ = draw(
        wide, chosen, [some[row] for row in chosen], [float(numbers[row]) for row in chosen]
    )
    assert token_ids.tolist() == [expected[row] for row in chosen]


@pytest.mark.parametrize("params", [{}, {"top_p": 0.5}, {"top_k": 2}, {"min_p": 0.5}])
def test_rows_without_a_distribution_are_told_apart(params: dict[str, float]) -> None:
    bad = float("nan")
    infinite = float("inf")
    logits = rows("random", 6, 300).contiguous()
    logits[1, 299], logits[2, 0], logits[3] = bad, infinite, -infinite
    logits[4] = bad
    token_ids, possible = draw(logits, range(6), samplings(6, **params), uniforms(6).tolist())
    assert possible.tolist() == [True, False, False, False, False, True]
    assert ((token_ids >= 0) & (token_ids < 300)).all()


def test_it_is_not_for_other_devices() -> None:
    assert drawing.can_draw(torch.device("cpu"))
    assert not drawing.can_draw(torch.device("cuda"))
