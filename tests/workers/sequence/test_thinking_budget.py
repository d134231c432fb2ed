"""A thinking budget holds exactly, and alike however its tokens are come by."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.protocol.common.reasoning_text import CallStart, ReasoningMarks
from headrace.protocol.common.thinking import ThinkingTracker
from headrace.protocol.config import SpeculativeConfig
from headrace.protocol.sampling import ThinkingBudget
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.errors import RejectedByEngine
from headrace.workers.sampling.sampler import sample
from headrace.workers.sequence.sequence import ChunkResult, DraftedSequence, Sequence
from headrace.workers.sequence.token_texts import TokenTexts
from tests.workers.driving import request, run
from tests.workers.engine.overlapping import LateRunner, overlapping_engine

VOCAB, MAX_LEN = 4, 48  # few tokens, so that delimiters come by themselves and drafts are right
NGRAM = SpeculativeConfig(
    method="ngram", num_speculative_tokens=4, prompt_lookup_max=3, prompt_lookup_min=1
)

LETTERS = TokenTexts("abcdefghij" + "?" * 54, lambda text: ["abcdefghij".index(c) for c in text])


def letters(token_ids: tuple[int, ...]) -> str:
    return "".join(LETTERS.text(token_id) for token_id in token_ids)


def budget(
    tokens: int, start: tuple[int, ...], ends: tuple[tuple[int, ...], ...], is_open: bool
) -> ThinkingBudget:
    """A budget whose delimiters are these tokens, each of which has a letter for its text."""
    starts = (letters(start),) if start else ()
    marks = ReasoningMarks(starts, tuple(map(letters, ends)))
    return ThinkingBudget(tokens, marks, start, ends[0], is_open)


def engine(
    speculative_config: SpeculativeConfig | None = None, num_blocks: int = 64, **options: Any
) -> Engine:
    runner = FakeRunner(
        vocab_size=VOCAB, max_model_len=MAX_LEN, num_blocks=num_blocks, block_size=4
    )
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 24, "clock": lambda: 0.0, **options}
    limits["texts"] = LETTERS
    return assemble_engine(runner, speculative_config=speculative_config, **limits)


def alone(one: Generate) -> list[int]:
    return run(engine(enable_prefix_caching=False), [(0, one)])[one.request_id].tokens


delimiters = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple)
budgets = st.builds(
    budget,
    st.integers(0, 12),
    delimiters | st.just(()),
    st.lists(delimiters, min_size=1, max_size=2).map(tuple),
    st.booleans(),
)
requests = st.builds(
    lambda prompt, priority, params: replace(request("?", prompt, **params), priority=priority),
    st.lists(st.integers(0, 1), min_size=1, max_size=24),
    st.integers(-1, 1),
    st.fixed_dictionaries(
        {
            "max_tokens": st.integers(1, 30),
            "thinking_budget": budgets,
            "logprobs": st.sampled_from([None, 1]),
            "presence_penalty": st.sampled_from([0.0, 1.0]),
            "stop_token_ids": st.sampled_from([(), (3,)]),
        }
    ),
)
scripts = st.lists(st.tuples(st.integers(0, 15), requests), min_size=1, max_size=8).map(
    lambda script: [(step, replace(one, request_id=str(n))) for n, (step, one) in enumerate(script)]
)


def is_ordinary(budget: ThinkingBudget) -> bool:
    """Whether no end delimiter is part of the start delimiter or of another, as in useful ones."""
    return not set(budget.start_ids) & set(budget.end_ids) and len(budget.marks.ends) == 1


@settings(max_examples=150)
@given(requests)
def test_no_text_thinks_longer_than_its_budget(one: Generate) -> None:
    budget = one.sampling.thinking_budget
    assert budget is not None
    block = ThinkingTracker(budget.marks, budget.is_open, LETTERS.text)
    output = alone(one)
    block.feed(output)
    if is_ordinary(budget):
        beginning = len(budget.start_ids) + len(budget.end_ids)
        assert block.num_tokens <= budget.tokens + (0 if block.is_over else beginning)
        if budget.is_open and len(output) > budget.tokens + beginning:
            assert block.is_over


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.builds(engine, st.just(NGRAM), num_blocks=st.integers(12, 40)),
        st.builds(engine, num_blocks=st.integers(12, 20), max_num_batched_tokens=st.integers(1, 9)),
        st.builds(
            overlapping_engine,
            vocab_size=st.just(VOCAB),
            num_blocks=st.integers(12, 40),
            texts=st.just(LETTERS),
        ),
    ),
    scripts,
)
def test_drafts_preemptions_and_steps_in_flight_change_no_token(
    busy: Engine, script: list[tuple[int, Generate]]
) -> None:
    answers = run(busy, script)
    for _, one in script:
        assert answers[one.request_id].tokens == alone(one)


@settings(max_examples=150)
@given(requests, st.integers(1, 29))
def test_a_replay_goes_on_alike(one: Generate, done: int) -> None:
    tokens = alone(one)
    if done < len(tokens):
        rest = alone(replace(one, output_token_ids=tuple(tokens[:done])))
        assert rest == tokens[done:]


START, END, CALL, OTHER = (5, 6), (7, 8), (9,), 1


def budget_of(tokens: int, start: tuple[int, ...] = (), is_open: bool = True) -> ThinkingBudget:
    return budget(tokens, start, (END, CALL), is_open)


def next_token(
    budget: ThinkingBudget, outputs: tuple[int, ...], drafts: tuple[int, ...] = (), **params: Any
) -> ChunkResult:
    """What is sampled where the model would always say OTHER."""
    one = request("r", [0], replayed=outputs, thinking_budget=budget, max_tokens=99, **params)
    sequence = Sequence.of(one, 0, 0.0)
    sequence.texts = LETTERS
    logits = torch.zeros(1, 10)
    logits[0, OTHER] = 10.0
    text = DraftedSequence(sequence, tuple(drafts)) if drafts else sequence
    return sample(logits, [text])[0]


@pytest.mark.parametrize(
    ("budget", "outputs", "expected"),
    [
        (budget_of(2), (), OTHER),
        (budget_of(2), (1,), OTHER),
        (budget_of(2), (1, 1), 7),
        (budget_of(2), (1, 1, 7), 8),
        (budget_of(2), (1, 1, 7, 8), OTHER),
        (budget_of(2), (1, 1, 7, 8, 5, 6, 1, 1, 1), OTHER),
        (budget_of(2), (1, 7), 8),  # the delimiter that has begun is completed
        (budget_of(2), (1, 9, 1, 1), OTHER),
        (budget_of(0), (), 7),
        (budget_of(0, START), (), 5),
        (budget_of(0, START), (5,), 6),
        (budget_of(0, START), (5, 6), 7),
        (budget_of(1, START), (5,), 6),
        (budget_of(1, START), (1,), 7),
        (budget_of(2, START), (5, 6, 1), OTHER),
        (budget_of(2, START), (5, 6, 1, 1), 7),
        (budget_of(0, START, is_open=False), (), OTHER),
        (budget_of(0, START, is_open=False), (5,), OTHER),
        (budget_of(0, START, is_open=False), (5, 6), 7),
        (budget_of(1, START, is_open=False), (1, 5, 6, 1), OTHER),
    ],
)
def test_what_must_follow(budget: ThinkingBudget, outputs: tuple[int, ...], expected: int) -> None:
    assert next_token(budget, outputs).token_id == expected
    if outputs:
        assert next_token(budget, outputs[:-1], outputs[-1:]).token_id == expected
        assert next_token(budget, (), outputs).token_id == expected


def test_a_forced_token_goes_before_all_else_and_keeps_its_probability() -> None:
    params: dict[str, Any] = {
        "min_tokens": 50,
        "stop_token_ids": (7,),
        "temperature": 1.0,
        "logprobs": 1,
    }
    result = next_token(budget_of(1), (1,), **params)
    assert result.logprobs is not None
    assert (result.token_id, result.logprobs.token_id) == (7, 7)
    assert result.logprobs.top_token_ids[0] == OTHER
    assert result.logprobs.logprob == pytest.approx(-10, abs=0.01)


def test_rows_without_a_budget_are_as_ever() -> None:
    bounded = request("a", [0], thinking_budget=budget_of(0), max_tokens=9)
    free = request("b", [0], max_tokens=9)
    logits = torch.zeros(3, 10)
    logits[:, OTHER] = 1.0
    sequences = [Sequence.of(one, 0, 0.0) for one in (free, bounded, free)]
    sequences[1].texts = LETTERS
    assert [result.token_id for result in sample(logits, sequences)] == [OTHER, 7, OTHER]


def test_a_step_in_flight_waits_only_where_a_delimiter_may_be_due() -> None:
    one = request("r", [1, 2], max_tokens=30, thinking_budget=budget(10, (), ((5,),), True))
    overlapping = overlapping_engine(texts=LETTERS)
    tokens = run(overlapping, [(0, one)])["r"].tokens
    assert 5 not in tokens[:10]
    assert tokens[10] == 5
    # The step after the tenth token waits for it, and the one after the delimiter.
    assert isinstance(overlapping.runner, LateRunner)
    assert overlapping.runner.num_overlapped >= 25


MARKS = ReasoningMarks((), ("b",))


@pytest.mark.parametrize(
    "budget",
    [
        ThinkingBudget(-1, MARKS, (), (1,), True),
        ThinkingBudget(1, ReasoningMarks((), ()), (), (1,), True),
        ThinkingBudget(1, MARKS, (), (), True),
        ThinkingBudget(1, MARKS, (), (VOCAB,), True),
        ThinkingBudget(1, MARKS, (1,), (1,), True),
        ThinkingBudget(1, ReasoningMarks(("a",), ("b",)), (-1,), (1,), True),
        ThinkingBudget(1, ReasoningMarks(("a",), ("b",)), (), (1,), True),
        ThinkingBudget(1, ReasoningMarks((), ("",)), (), (1,), True),
        ThinkingBudget(1, ReasoningMarks((), ("b" * 300,)), (), (1,), True),
        ThinkingBudget(1, ReasoningMarks((), ("b",) * 40), (), (1,), True),
        ThinkingBudget(1, ReasoningMarks((), ("b",), (CallStart("c", ("",)),)), (), (1,), True),
    ],
)
def test_a_budget_that_cannot_be_held_is_refused(budget: ThinkingBudget) -> None:
    with pytest.raises(RejectedByEngine, match="thinking_budget"):
        engine().add(request("r", [1], thinking_budget=budget))


# Delimiters in other tokens than the tokenizer makes of them


WORDS = ["so ", "</", "think", ">", ">\n\n", "</think>", " a <", "/th", "ink>", "<call>", "{", "f"]
WRITTEN = TokenTexts(WORDS, lambda text: [WORDS.index(text)])


def forced_after(outputs: list[int], tokens: int, calls: tuple[CallStart, ...] = ()) -> int:
    """What is sampled after these words, where the model would always say "so "."""
    marks = ReasoningMarks((), ("</think>",), calls)
    bounded = ThinkingBudget(tokens, marks, (), (1, 2, 3), True)
    one = request("r", [0], replayed=tuple(outputs), thinking_budget=bounded, max_tokens=99)
    sequence = Sequence.of(one, 0, 0.0)
    sequence.texts = WRITTEN
    logits = torch.zeros(1, len(WORDS))
    logits[0, 0] = 10.0
    found = sample(logits, [sequence])[0].token_id
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([0, 1, 2, 4, 0, 0], "so "),  # "</", "think", ">\n\n"
        ([0, 5, 0, 0, 0], "so "),
        ([0, 6, 7, 8, 0, 0], "so "),
        ([0, 0, 0], "</"),
        ([0, 0, 1], "think"),
        ([0, 0, 1, 2], ">"),
        ([0, 0, 6, 7], "ink>"),  # other tokens make what is left
    ],
)
def test_an_end_is_followed_by_its_text(outputs: list[int], expected: str) -> None:
    assert WORDS[forced_after(outputs, 2)] == expected


def test_a_call_that_has_begun_within_the_budget_is_waited_for() -> None:
    call = (CallStart("<call>", (" { f",)),)
    assert WORDS[forced_after([0, 9], 2, call)] == "so "
    assert WORDS[forced_after([0, 9, 10], 2, call)] == "so "
    assert WORDS[forced_after([0, 9, 10, 11, 0, 0], 2, call)] == "so "
    assert WORDS[forced_after([0, 9, 10, 0], 2, call)] == "</"
    assert WORDS[forced_after([0, 9], 2)] == "</"
    assert WORDS[forced_after([0, 0, 9], 2, call)] == "</"  # it has begun too late
