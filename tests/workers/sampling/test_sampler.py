"""The sampler against plain formulas. All seeds are fixed, so no test is a matter of luck."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from headrace.workers.native.library import unsupported_reason
from headrace.workers.sampling import sampler
from headrace.workers.sampling.noise import uniform
from headrace.workers.sampling.penalties import apply_penalties
from headrace.workers.sampling.sampler import _look_up, _top_tokens, sample
from headrace.workers.sequence.sequence import Sequence
from headrace.workers.sequence.token_counts import TokenCounts
from tests.workers.driving import request

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5, -4.0, 0.7, -2.0])
SIZE = len(LOGITS)
DRAWS = 4000


@pytest.fixture(params=["kernel", "torch"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs on the compiled kernel, where it can, and on torch's operations."""
    if request.param == "torch":
        monkeypatch.setattr(sampler, "can_draw", lambda device: False)
    elif unsupported_reason(torch.float32):
        pytest.skip(f"no compiled kernels: {unsupported_reason(torch.float32)}")


def sequence(
    prompt: Iterable[int] = (1,),
    outputs: Iterable[int] = (),
    **params: Any,
) -> Sequence:
    return Sequence.of(request("r", prompt, replayed=outputs, **params), 0, 0.0)


def tokens(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    results = sample(logits.clone(), sequences)
    assert all(result.error is None for result in results)
    found = [result.token_id for result in results if result.token_id is not None]
    assert len(found) == len(results)
    return found


def frequencies(logits: torch.Tensor = LOGITS, draws: int = DRAWS, **params: Any) -> torch.Tensor:
    """How often each token is drawn, by many seeds."""
    sequences = [sequence(seed=seed, **{"temperature": 1.0, **params}) for seed in range(draws)]
    drawn = tokens(logits.expand(draws, -1), sequences)
    return torch.bincount(torch.tensor(drawn), minlength=logits.shape[0])


def assert_drawn_from(counts: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Pearson's chi-square is within five standard deviations; nothing drawn that cannot be."""
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible].double() * counts.sum()
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    freedom = int(possible.sum()) - 1
    assert statistic <= freedom + 5 * math.sqrt(2 * freedom)


def plain(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> torch.Tensor:
    """The distribution by the definitions, a token at a time."""
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    order = sorted(range(len(logits)), key=lambda token: -probabilities[token])
    kept = [t for t in order if probabilities[t] >= min_p * probabilities[order[0]]]
    kept = kept[:top_k] if top_k else kept
    mass = sum(float(probabilities[t]) for t in kept)
    nucleus, together = [], 0.0
    for token in kept:
        nucleus.append(token)
        together += float(probabilities[token]) / mass
        if together >= top_p:
            break
    result = torch.zeros_like(probabilities)
    result[nucleus] = probabilities[nucleus]
    return result / result.sum()


CASES = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": SIZE + 5},
    {"top_p": 0.01},
    {"top_p": 0.6},
    {"top_p": 0.95, "temperature": 1.7},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 4, "top_p": 0.7, "min_p": 0.05, "temperature": 1.3},
]


@pytest.mark.parametrize("params", CASES, ids=str)
def test_draws_follow_the_distribution(params: dict[str, Any]) -> None:
    assert_drawn_from(frequencies(**params), plain(LOGITS, **params))


def test_draws_along_one_text_follow_the_distribution() -> None:
    sequences = [
        sequence(outputs=[0] * n, seed=77, temperature=1.0, max_tokens=DRAWS + 1)
        for n in range(1000)
    ]
    drawn = tokens(LOGITS.expand(1000, -1), sequences)
    counts = torch.bincount(torch.tensor(drawn), minlength=SIZE)
    assert_drawn_from(counts, plain(LOGITS))


def test_a_nucleus_larger_than_the_head_is_whole() -> None:
    size = 3000
    logits = -0.0005 * torch.arange(size).float()
    expected = plain(logits, top_p=0.9)
    assert int((expected > 0).sum()) > 1024
    counts = frequencies(logits, draws=3000, top_p=0.9)
    halves = [counts[:1000].sum(), counts[1000:2000].sum(), counts[2000:].sum()]
    wanted = [expected[:1000].sum(), expected[1000:2000].sum(), expected[2000:].sum()]
    assert_drawn_from(torch.stack(halves), torch.stack(wanted))
    assert counts[expected == 0].sum() == 0


def test_a_small_nucleus_beside_a_large_one() -> None:
    size = 2000
    flat, peaked = torch.zeros(size), torch.zeros(size)
    peaked[5], peaked[6] = 20.0, 19.0
    logits = torch.stack([flat, peaked] * 200)
    sequences = [sequence(seed=n, temperature=1.0, top_p=0.95) for n in range(400)]
    drawn = tokens(logits, sequences)
    assert set(drawn[1::2]) == {5, 6}
    assert len(set(drawn[::2])) > 150


def test_ties_at_the_cut_are_kept() -> None:
    logits = torch.tensor([1.0, 3.0, 1.0, 1.0, 0.0])
    assert (frequencies(logits, draws=500, top_k=2) > 0).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 1e-7, "top_p": 0.5}])
def test_cold_requests_take_the_likeliest(params: dict[str, Any]) -> None:
    assert tokens(LOGITS[None], [sequence(**params)]) == [0]


def test_tiny_temperatures_and_huge_logits_do_not_overflow() -> None:
    logits = torch.tensor([[3e38, -3e38, 1.0]])
    assert tokens(logits, [sequence(temperature=2e-5)]) == [0]


def test_nothing_depends_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((24, 500), generator=generator) * 3
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.2, "top_k": 7, "repetition_penalty": 1.3},
        {"temperature": 0.0, "frequency_penalty": 0.5},
        {"temperature": 1.0, "min_p": 0.1, "min_tokens": 9, "stop_token_ids": (3, 4)},
    ]
    sequences = [
        sequence(range(n + 1), range(n % 5), seed=n, max_tokens=50, **kinds[n % len(kinds)])
        for n in range(24)
    ]
    together = tokens(logits, sequences)
    alone = [tokens(logits[n : n + 1], [sequences[n]])[0] for n in range(24)]
    backwards = tokens(logits.flip(0), sequences[::-1])[::-1]
    assert together == alone == backwards


def test_seed_and_position_decide() -> None:
    logits = LOGITS.expand(60, -1)
    at = [sequence(outputs=[0] * n, seed=5, temperature=1.0, max_tokens=99) for n in range(60)]
    replayed = [
        sequence((9, 9), [7] * n, seed=5, temperature=1.0, max_tokens=200) for n in range(60)
    ]
    other = [sequence(outputs=[0] * n, seed=6, temperature=1.0, max_tokens=99) for n in range(60)]
    assert tokens(logits, at) == tokens(logits, replayed)
    assert tokens(logits, at) != tokens(logits, other)


def test_noise_is_splitmix() -> None:
    key = 0xE220A8397B1DCDAF  # the published first output for seed 0
    state = (key + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    assert uniform(0, 0) == ((state ^ state >> 31) >> 12) / 2**52


def test_noise_is_below_one_and_spread() -> None:
    values = [uniform(seed, position) for seed in (0, 1, 2**64 - 1) for position in range(2000)]
    assert len(set(values)) == len(values)
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1
    counts = torch.histc(torch.tensor(values), bins=10, min=0, max=1)
    assert_drawn_from(counts, torch.full((10,), 0.1))


def test_penalties_follow_their_formulas() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn((3, 12), generator=generator)
    changed = logits.clone()
    sequences = [
        sequence([1, 2, 2], [3, 3, 1], repetition_penalty=1.5),
        sequence([1, 2, 2], [3, 3, 1], presence_penalty=0.6, frequency_penalty=-0.3),
        sequence([5], [], repetition_penalty=0.7, presence_penalty=2.0, frequency_penalty=1.0),
    ]
    apply_penalties(changed, [0, 2, 1], sequences)
    for row, one in enumerate(sequences):
        sampling = one.request.sampling
        outputs = one.token_ids[one.num_prompt :]
        for token in range(12):
            expected = float(logits[row, token])
            if token in one.token_ids:
                factor = sampling.repetition_penalty
                expected = expected / factor if expected > 0 else expected * factor
            expected -= sampling.frequency_penalty * outputs.count(token)
            expected -= sampling.presence_penalty * (token in outputs)
            assert float(changed[row, token]) == pytest.approx(expected, abs=1e-5)


def test_penalties_reach_the_choice_of_greedy_and_of_sampled_tokens() -> None:
    params: dict[str, Any] = {"outputs": [0, 0], "presence_penalty": 0.2, "frequency_penalty": 0.6}
    assert tokens(LOGITS[None], [sequence(**params)]) == [6]
    counts = frequencies(outputs=[0, 0], frequency_penalty=1.0)
    assert_drawn_from(counts, plain(LOGITS - 2.0 * torch.eye(SIZE)[0]))


def test_penalties_keep_up_with_a_growing_text() -> None:
    generator = torch.Generator().manual_seed(5)
    params: dict[str, Any] = {
        "repetition_penalty": 1.5,
        "presence_penalty": 0.6,
        "frequency_penalty": 0.3,
    }
    growing = sequence([1, 2, 2], **params)
    for token in (3, 1, 3, 7):
        logits = torch.randn((2, SIZE), generator=generator)
        fresh = sequence(growing.token_ids[:3], growing.token_ids[3:], **params)
        changed, expected = logits.clone(), logits.clone()
        apply_penalties(changed, [1], [sequence(), growing])
        apply_penalties(expected, [1], [sequence(), fresh])
        assert changed.tolist() == expected.tolist()
        assert changed[0].tolist() == logits[0].tolist()
        growing.token_ids.append(token)


def test_token_counts_tell_prompt_and_output_apart() -> None:
    text = sequence([5, 4, 5], [4])
    text.token_counts()
    text.token_ids += [4, 9]
    counts = text.token_counts()
    assert list(counts.token_ids) == [5, 4, 9]
    assert list(counts.in_output) == [0.0, 2.0, 1.0]


def test_counted_tokens_are_not_looked_at_again() -> None:
    counts = TokenCounts()
    counts.update([5, 6, 6], num_prompt=1)
    unknown: list[Any] = [None] * 3
    counts.update([*unknown, 6], num_prompt=1)
    assert list(counts.token_ids) == [5, 6]
    assert list(counts.in_output) == [0.0, 3.0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_min_tokens_leave_a_token_where_all_would_end_the_text(temperature: float) -> None:
    ends = {"eos_token_ids": tuple(range(5)), "stop_token_ids": tuple(range(4, SIZE))}
    rows = [
        sequence(temperature=temperature, min_tokens=3, **ends),
        sequence(temperature=temperature, min_tokens=3, eos_token_ids=(0,), top_k=1),
    ]
    results = sample(LOGITS.expand(2, -1).clone(), rows)
    assert [result.error for result in results] == [None, None]
    assert results[1].token_id == 6
    unbound = sequence(temperature=temperature, **ends)
    assert results[0].token_id == tokens(LOGITS[None], [unbound])[0]


def test_min_tokens_leave_a_token_where_all_others_are_impossible() -> None:
    logits = torch.full((1, 4), float("-inf"))
    logits[0, 2] = 1.0
    assert tokens(logits, [sequence(min_tokens=3, eos_token_ids=(1, 2))]) == [2]


def test_a_temperature_beyond_the_floats_ends_only_its_row() -> None:
    logits = LOGITS.expand(3, -1).clone()
    logits[:, 3] = float("-inf")
    rows = [sequence(temperature=t, seed=3) for t in (1.0, 1e39, 0.0)]
    results = sample(logits, rows)
    assert [result.error is None for result in results] == [True, False, True]
    assert results[1].token_id is None
    assert results[0].token_id == tokens(logits[:1], rows[:1])[0]


def test_min_tokens_keeps_the_ends_away() -> None:
    ends = {"eos_token_ids": (0,), "stop_token_ids": (6, 10**9, -1)}
    assert tokens(LOGITS[None], [sequence(outputs=[1], min_tokens=2, **ends)]) == [1]
    assert tokens(LOGITS[None], [sequence(outputs=[1, 1], min_tokens=2, **ends)]) == [0]


def test_logprobs_are_the_models_own() -> None:
    logits = torch.stack([LOGITS, LOGITS * 2, LOGITS])
    sequences = [
        sequence(temperature=5.0, seed=1, logprobs=3, outputs=[2], frequency_penalty=2.0),
        sequence(logprobs=0),
        sequence(),
    ]
    results = sample(logits.clone(), sequences)
    for row, top in ((0, 3), (1, 0)):
        known = results[row].logprobs
        expected = logits[row].log_softmax(-1)
        assert known is not None
        assert known.token_id == results[row].token_id
        assert known.logprob == pytest.approx(float(expected[known.token_id]), abs=1e-5)
        assert known.rank == int((expected > expected[known.token_id]).sum()) + 1
        likeliest = expected.topk(top)
        assert list(known.top_token_ids) == likeliest.indices.tolist()
        assert list(known.top_logprobs) == pytest.approx(likeliest.values.tolist(), abs=1e-5)
    assert results[2].logprobs is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_end_only_their_row(bad: float, temperature: float) -> None:
    logits = torch.stack([LOGITS, LOGITS, torch.full((SIZE,), float("-inf")), LOGITS])
    logits[1, 4] = bad
    rows = [sequence(temperature=temperature, top_p=0.9, logprobs=1, seed=n) for n in range(4)]
    results = sample(logits.clone(), rows)
    reasons = [result.error and result.error.reason for result in results]
    assert reasons == [None, "error", "rejected", None]
    assert results[1].token_id is None
    assert results[3].token_id == tokens(LOGITS[None], [rows[3]])[0]


def test_penalties_that_overflow_end_only_their_row() -> None:
    rows = [sequence(outputs=[0], repetition_penalty=1e-300), sequence()]
    results = sample(torch.stack([LOGITS, LOGITS]), rows)
    assert results[0].error is not None
    assert results[1].token_id == 0


def test_rounded_logits_are_taken() -> None:
    logits = LOGITS[None].bfloat16()
    assert tokens(logits, [sequence(logprobs=2)]) == [0]
    assert tokens(logits, [sequence(temperature=1.0, top_k=1)]) == [0]


@pytest.mark.parametrize("size", [1, 5, 255, 256, 257, 1000])
def test_the_look_up_is_a_search_in_the_cumulative_sum(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    weights = torch.rand((50, size), generator=generator)
    weights[:, torch.rand(size, generator=generator) < 0.3] = 0
    weights[:, size // 2] = 1
    uniforms = torch.rand((50, 1), generator=generator, dtype=torch.float64)
    uniforms[0], uniforms[1] = 0.0, 1.0  # rounding can make a target the whole sum
    cumulative = weights.double().cumsum(dim=1)
    expected = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    expected[1] = weights[1].nonzero().max()
    chosen, possible = _look_up(weights, uniforms)
    assert chosen.tolist() == expected.squeeze(1).tolist()
    assert possible.all()


def test_rows_of_a_large_vocabulary_do_not_depend_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn((6, 20_000), generator=generator) * 3).bfloat16()
    params: list[dict[str, Any]] = [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0, "top_k": 50},
        {"temperature": 0.0},
        {"temperature": 2.0, "top_p": 0.999},
        {"temperature": 1.0, "min_p": 0.01},
    ]
    sequences = [sequence(seed=n, **some) for n, some in enumerate(params)]
    alone = [tokens(row[None], [one])[0] for row, one in zip(logits, sequences, strict=True)]
    assert tokens(logits, sequences) == alone
    assert tokens(logits.flip(0), sequences[::-1]) == alone[::-1]


@pytest.mark.parametrize("size", [5, 256, 300, 1024, 1025])
def test_the_likeliest_is_the_first_of_the_greatest(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = torch.randint(0, 9, (40, size), generator=generator).float()
    logits[3, size - 1] = 10.0
    logits[4] = -torch.inf
    tops, choices = _top_tokens(logits)
    assert tops.tolist() == logits.amax(dim=-1).tolist()
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert choices.tolist() == expected
    logits[5, size // 2] = torch.nan
    assert not torch.isfinite(_top_tokens(logits)[0][5])
