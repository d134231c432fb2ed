"""What a request says of single tokens: biases, allowed ones, bad words, named ones."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.protocol.sampling import RepetitionRule
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.errors import RejectedByEngine
from headrace.workers.sampling.sampler import sample
from headrace.workers.sequence.bad_words import BadWords
from headrace.workers.sequence.repetition import RepetitionDetector
from tests.workers.driving import request, run
from tests.workers.sampling.test_sampler import (
    LOGITS,
    SIZE,
    assert_drawn_from,
    frequencies,
    plain,
    sequence,
    tokens,
)


def fake_engine() -> Engine:
    runner = FakeRunner(vocab_size=SIZE, max_model_len=400, num_blocks=128, block_size=4)
    return assemble_engine(runner, max_num_seqs=8, max_num_batched_tokens=16)


def test_biases_are_added_to_logits() -> None:
    biased = LOGITS.clone()
    biased[[3, 7]] += torch.tensor([2.5, 6.0])
    counts = frequencies(biased_token_ids=(3, 7), biases=(2.5, 6.0))
    assert_drawn_from(counts, plain(biased))


def test_biases_go_before_penalties() -> None:
    """A logit that a bias makes positive is divided by a repetition penalty, not multiplied."""
    logits = torch.full((1, SIZE), -9.0)
    logits[0, :2] = torch.tensor([-1.0, 1.6])
    fields: dict[str, Any] = {"biased_token_ids": (0,), "biases": (4.0,), "repetition_penalty": 2.0}
    assert tokens(logits, [sequence(prompt=(0,), **fields)]) == [1]
    fields["biases"] = (4.5,)
    assert tokens(logits, [sequence(prompt=(0,), **fields)]) == [0]


def test_a_bias_of_100_decides_and_of_minus_100_forbids() -> None:
    rows = LOGITS.expand(2, -1)
    chosen = sequence(biased_token_ids=(7,), biases=(100.0,))
    shunned = sequence(biased_token_ids=(0,), biases=(-100.0,))
    assert tokens(rows, [chosen, shunned]) == [7, 6]
    assert tokens(rows, [sequence(), chosen]) == [0, 7]  # nothing of it is kept for other rows


def test_only_allowed_tokens_are_drawn() -> None:
    counts = frequencies(allowed_token_ids=(2, 3, 9))
    allowed = torch.full_like(LOGITS, float("-inf"))
    allowed[[2, 3, 9]] = LOGITS[[2, 3, 9]]
    assert_drawn_from(counts, plain(allowed))
    assert tokens(LOGITS[None], [sequence(allowed_token_ids=(9, 7))]) == [9]


def test_bad_words_of_one_and_of_several_tokens() -> None:
    words: dict[str, Any] = {"bad_words": ((0,), (5, 4, 6), (5, 1))}
    rows = LOGITS.expand(4, -1)
    texts = [
        sequence(prompt=(5, 4), **words),  # the prompt's tokens are no beginning of a bad word
        sequence(outputs=(5, 4), **words),
        sequence(outputs=(4, 5), **words),
        sequence(outputs=(3, 5, 4), **words),
    ]
    assert tokens(rows, texts) == [6, 1, 6, 1]


def test_a_text_goes_on_where_all_that_is_allowed_is_forbidden() -> None:
    stuck = {"allowed_token_ids": (2, 3), "bad_words": ((2,), (3,))}
    ending = {"allowed_token_ids": (4,), "eos_token_ids": (4,), "min_tokens": 3}
    both = {**stuck, "bad_words": ((2,),), "eos_token_ids": (3,), "min_tokens": 3}
    rows = LOGITS.expand(3, -1)
    assert tokens(rows, [sequence(**fields) for fields in (stuck, ending, both)]) == [2, 4, 3]


def test_named_tokens_log_probabilities_are_those_before_biases() -> None:
    fields: dict[str, Any] = {"logprobs": 0, "biased_token_ids": (9,), "biases": (100.0,)}
    texts = [
        sequence(logprob_token_ids=(3, 8, 1), **fields),
        sequence(logprob_token_ids=(5,), **fields),
        sequence(**{**fields, "logprobs": 2}),
    ]
    named, single, likeliest = [result.logprobs for result in sample(LOGITS.expand(3, -1), texts)]
    known = torch.log_softmax(LOGITS, dim=-1)
    assert named is not None
    assert named.top_token_ids == (3, 8, 1)
    assert named.top_logprobs == pytest.approx(known[[3, 8, 1]].tolist())
    assert single is not None
    assert likeliest is not None
    assert (single.top_token_ids, likeliest.top_token_ids) == ((5,), (0, 6))
    assert {one.token_id for one in (named, single, likeliest)} == {9}
    assert named.logprob == pytest.approx(float(known[9]))
    assert named.rank == 9


WORDS = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6
)


@given(WORDS, st.lists(st.integers(0, 2), max_size=12))
def test_banned_is_what_would_end_a_word(words: list[tuple[int, ...]], output: list[int]) -> None:
    bad = BadWords(words)
    expected = {
        token for token in range(3) for word in words if (*output, token)[-len(word) :] == word
    }
    last = output[max(0, len(output) - bad.reach) :]
    assert set(bad.banned(last)) == expected


def repeats(output: list[int], params: RepetitionRule) -> bool:
    for size in range(params.min_pattern_size, params.max_pattern_size + 1):
        pattern = output[-size:]
        if (
            len(pattern) == size
            and output[-size * params.min_count :] == pattern * params.min_count
        ):
            return True
    return False


PARAMS = st.builds(
    lambda least, more, count: RepetitionRule(least, least + more, count),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(2, 4),
)


@given(PARAMS, st.lists(st.integers(0, 1), max_size=60), st.integers(0, 5), st.data())
def test_repetition_is_noticed_as_by_the_definition(
    params: RepetitionRule, output: list[int], num_prompt: int, data: st.DataObject
) -> None:
    text = [1] * num_prompt
    following = RepetitionDetector(params, max_tokens=len(output))
    skipped = data.draw(st.integers(0, len(output)))  # a replay begins with some of the output
    text += output[:skipped]
    for end in range(skipped, len(output)):
        text.append(output[end])
        assert following.follow(text, num_prompt) == repeats(output[: end + 1], params)


def test_repetition_ends_a_text_but_not_before_min_tokens() -> None:
    fields: dict[str, Any] = {"allowed_token_ids": (4,), "max_tokens": 100}
    one = request("r", [1], repetition_detection=RepetitionRule(1, 3, 5), **fields)
    answer = run(fake_engine(), [(0, one)])["r"]
    assert (answer.tokens, answer.finish_reason) == ([4] * 5, "repetition")
    longer = replace(one, sampling=replace(one.sampling, min_tokens=9))
    assert len(run(fake_engine(), [(0, longer)])["r"].tokens) == 9
    replayed = replace(one, output_token_ids=(4, 4, 4))
    assert run(fake_engine(), [(0, replayed)])["r"].tokens == [4, 4]


def test_following_a_long_repetitive_text_costs_little_per_token() -> None:
    """Work is counted, not timed: only a token's own kind within reach is looked at."""
    params = RepetitionRule(900, 1000, 50)
    following = RepetitionDetector(params, max_tokens=100_000)
    text = [0] * 3000
    assert not following.follow(text, 0)
    assert len(following._equal) == 101


def test_patterns_that_cannot_repeat_often_enough_are_not_looked_for() -> None:
    following = RepetitionDetector(RepetitionRule(1, 1000, 50), max_tokens=200)
    text = [0] * 49
    assert not following.follow(text, 0)
    assert set(following._equal) == {1, 2, 3, 4}
    assert following.follow([*text, 0], 0)
    never = RepetitionDetector(RepetitionRule(1, 1000, 2**31 - 1), max_tokens=200)
    assert not never.follow(text, 0)
    assert not never._equal


def test_no_step_has_to_catch_up_with_a_text_that_had_to_be_long() -> None:
    engine = fake_engine()
    detection = RepetitionRule(1, 2, 100)
    engine.add(request("r", [1], max_tokens=50, min_tokens=40, repetition_detection=detection))
    sequence = engine._sequences["r"]
    for _ in range(9):
        engine.step()
    assert sequence.repetition is not None
    assert sequence.repetition._next == len(sequence.token_ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"biased_token_ids": (SIZE,), "biases": (1.0,)},
        {"biased_token_ids": (1,), "biases": ()},
        {"biased_token_ids": (1,), "biases": (float("nan"),)},
        {"allowed_token_ids": (-1,)},
        {"bad_words": ((1, SIZE),)},
        {"bad_words": ((),)},
        {"logprob_token_ids": (SIZE,)},
        {"repetition_detection": RepetitionRule(0, 1, 2)},
        {"repetition_detection": RepetitionRule(3, 2, 2)},
        {"repetition_detection": RepetitionRule(1, 10**9, 2)},
        {"repetition_detection": RepetitionRule(1, 2, 1)},
    ],
    ids=str,
)
def test_the_engine_takes_no_request_that_it_could_not_run(fields: dict[str, Any]) -> None:
    with pytest.raises(RejectedByEngine):
        fake_engine().add(request("r", [1], **fields))
