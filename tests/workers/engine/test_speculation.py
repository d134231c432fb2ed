"""Drafts change when tokens come, and never which."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from headrace.protocol.config import SpeculativeConfig
from headrace.protocol.sampling import RepetitionRule
from headrace.protocol.to_frontend import Logprobs
from headrace.protocol.to_worker import Generate
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.process.metrics import WorkerMetrics
from headrace.workers.sampling.sampler import sample
from headrace.workers.sampling.verify import views_to_sample
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Failure, Sequence
from headrace.workers.sequence.token_counts import TokenCounts
from headrace.workers.torch_runner.loading import load_model
from headrace.workers.torch_runner.model_runner import ModelRunner
from tests.workers.driving import Answer, request, run
from tests.workers.tiny_models import save_tiny

NGRAM = SpeculativeConfig(
    method="ngram", num_speculative_tokens=4, prompt_lookup_max=3, prompt_lookup_min=1
)
MAX_LEN = 48
OPTIONS: dict[str, Any] = {"speculative_config": NGRAM, "clock": lambda: 0.0}
VOCAB = 3  # few tokens, so that drafts are right now and then


def fake_engine(num_blocks: int = 64, max_len: int = MAX_LEN, **options: Any) -> Engine:
    runner = FakeRunner(
        vocab_size=VOCAB, max_model_len=max_len, num_blocks=num_blocks, block_size=4
    )
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 24, **OPTIONS}
    return assemble_engine(runner, **{**limits, **options})


def alone(one: Generate) -> list[int]:
    """The text of a request without speculation, in an engine of its own."""
    engine = fake_engine(speculative_config=None, enable_prefix_caching=False)
    return run(engine, [(0, one)])[one.request_id].tokens


engines = st.builds(
    fake_engine,
    num_blocks=st.integers(12, 40),
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.integers(1, 40),
    enable_prefix_caching=st.booleans(),
)
requests = st.builds(
    lambda prompt, priority, params: replace(request("?", prompt, **params), priority=priority),
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.integers(-1, 1),
    st.fixed_dictionaries(
        {
            "max_tokens": st.integers(1, 40),
            "prompt_logprobs": st.sampled_from([None, None, 1]),
            "logprobs": st.sampled_from([None, 2]),
            "stop_token_ids": st.sampled_from([(), (), (2,)]),
            "eos_token_ids": st.sampled_from([(), (1,)]),
            "min_tokens": st.integers(0, 6),
            "bad_words": st.sampled_from(
                [(), (), ((0, 1),), ((0,), (2, 1, 2)), ((1, 1, 1), (2, 2))]
            ),
            "allowed_token_ids": st.sampled_from([(), (), (0, 2)]),
            "repetition_detection": st.sampled_from([None, None, RepetitionRule(1, 4, 3)]),
        }
    ),
)
scripts = st.lists(st.tuples(st.integers(0, 20), requests), min_size=1, max_size=10)


@settings(max_examples=100, deadline=None)
@given(engines, scripts, st.data())
def test_texts_are_those_without_speculation(
    engine: Engine, script: list[tuple[int, Generate]], data: st.DataObject
) -> None:
    arrivals = [(step, replace(one, request_id=str(n))) for n, (step, one) in enumerate(script)]
    cuts = {}
    for index, (step, one) in enumerate(arrivals):
        text = alone(one)
        cuts[one.request_id] = (text, data.draw(st.integers(0, len(text) - 1)))
        replayed = tuple(text[: cuts[one.request_id][1]])
        arrivals[index] = (step, replace(one, output_token_ids=replayed))
    answers = run(engine, arrivals)
    for _, one in arrivals:
        answer = answers[one.request_id]
        text, cut = cuts[one.request_id]
        assert answer.tokens == text[cut:]
        assert all(output.finish_reason is None for output in answer.outputs[:-1])
        assert answer.finish_reason in ("stop", "length", "repetition")
        position = cut
        for output in answer.outputs:
            assert output.position == position
            position += len(output.token_ids)
            if one.sampling.logprobs is None:
                assert output.logprobs is None
            else:
                assert output.logprobs is not None
                assert tuple(known.token_id for known in output.logprobs) == output.token_ids
    assert engine.stats().blocks_used == 0
    assert engine.stats().generated_tokens == sum(len(a.tokens) for a in answers.values())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), scripts)
def test_steps_stay_within_their_room_and_prompts_progress(
    max_tokens: int, script: list[tuple[int, Generate]]
) -> None:
    engine = fake_engine(max_num_batched_tokens=max_tokens)
    waiting = [replace(one, request_id=str(n)) for n, (_, one) in enumerate(script)]
    for one in waiting:
        engine.add(one)
    idle = 0
    while engine.has_work:
        before = engine.stats().prompt_tokens
        outputs = engine.step()
        stats = engine.stats()
        assert stats.step_tokens <= max_tokens
        room = max_tokens - stats.running > 0
        idle = idle + 1 if not outputs and stats.prompt_tokens == before and room else 0
        assert idle == 0


def test_a_repeating_text_takes_fewer_steps_and_is_counted() -> None:
    """The fake's tokens are all the same where there is but one."""
    runner = FakeRunner(vocab_size=1, max_model_len=200, num_blocks=64, block_size=4)
    engine = assemble_engine(runner, max_num_seqs=2, max_num_batched_tokens=16, **OPTIONS)
    answer = run(engine, [(0, request("r", [0, 0], max_tokens=100))])["r"]
    stats = engine.stats()
    assert len(answer.tokens) == 100
    assert stats.steps == len(answer.outputs) < 35
    assert stats.accepted_tokens == stats.draft_tokens == 100 - stats.steps
    assert stats.drafts >= stats.steps - 6


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_max_tokens_and_the_context_are_met_exactly(max_tokens: int) -> None:
    runner = FakeRunner(vocab_size=1, max_model_len=12, num_blocks=3, block_size=4)
    engine = assemble_engine(runner, max_num_seqs=1, max_num_batched_tokens=12, **OPTIONS)
    answer = run(engine, [(0, request("r", [0, 0, 0], max_tokens=max_tokens))])["r"]
    assert len(answer.tokens) == min(max_tokens, 9)
    assert answer.finish_reason == "length"
    assert engine.stats().draft_tokens == engine.stats().accepted_tokens


def test_a_stop_token_within_a_right_draft_ends_the_text() -> None:
    prompt = [0, 1, 2, 0, 1]
    engine = fake_engine()
    text = alone(request("r", prompt, max_tokens=40))
    stop = text[-1]
    sampling: dict[str, Any] = {
        "max_tokens": 40,
        "stop_token_ids": (stop,),
        "min_tokens": text.index(stop) + 1,
    }
    answer = run(engine, [(0, request("r", prompt, **sampling))])["r"]
    last = answer.outputs[-1]
    assert (last.finish_reason, last.stop_token_id) == ("stop", stop)
    assert last.token_ids[-1] == stop
    assert answer.tokens.count(stop) == 1


def test_an_error_after_a_right_draft_comes_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = FakeRunner(vocab_size=1, max_model_len=200, num_blocks=64, block_size=4)
    engine = assemble_engine(runner, max_num_seqs=2, max_num_batched_tokens=16, **OPTIONS)
    choose = FakeRunner._choose

    def fail_from_the_tenth(
        self: FakeRunner, sequence: Sequence, drafts: tuple[int, ...]
    ) -> ChunkResult:
        if len(sequence.token_ids) + len(drafts) >= 10:
            return ChunkResult(error=Failure("error", "not finite"))
        return choose(self, sequence, drafts)

    monkeypatch.setattr(FakeRunner, "_choose", fail_from_the_tenth)
    answer = run(engine, [(0, request("r", [0, 0], max_tokens=100))])["r"]
    assert answer.tokens == [0] * 8
    assert answer.outputs[-1].error == "not finite"
    assert engine.stats().blocks_used == 0


# A real model: keys and values of wrong drafts lie in the cache for a while.


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    folder = tmp_path_factory.mktemp("llama")
    save_tiny(folder, "llama")
    model = load_model(folder, "float32", torch.device("cpu"))
    hook = AttentionHook()
    with torch.inference_mode():
        hook.probe(model)
    return ModelRunner(model, hook, max_model_len=128, num_blocks=40, block_size=4)


def tiny_engine(runner: ModelRunner, speculate: bool, **options: Any) -> Engine:
    limits: dict[str, Any] = {"max_num_seqs": 16, "max_num_batched_tokens": 64, **options}
    return assemble_engine(runner, **limits, **(OPTIONS if speculate else {}))


PROMPT = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8, 5, 6]
SAMPLINGS: dict[str, Any] = {
    "greedy": {},
    "cold": {"temperature": 0.4, "seed": 11},
    "nucleus": {"temperature": 0.7, "seed": 7, "top_p": 0.8},
    "top_k": {"temperature": 0.8, "seed": 3, "top_k": 5, "min_p": 0.05},
    "repetition": {"repetition_penalty": 1.05},
    "presence": {"presence_penalty": 0.5, "frequency_penalty": 0.2, "temperature": 0.3, "seed": 2},
    "rewarded": {"frequency_penalty": -0.5, "temperature": 0.5, "seed": 5},
    "min_tokens": {"min_tokens": 20, "eos_token_ids": tuple(range(0, 200, 2))},
    "biased": {"biased_token_ids": (3, 7), "biases": (4.0, -100.0), "temperature": 0.6, "seed": 4},
    "allowed": {"allowed_token_ids": tuple(range(0, 200, 7)), "temperature": 0.5, "seed": 8},
    "bad_words": {"bad_words": tuple((a, b) for a in range(0, 200, 2) for b in range(0, 200, 3))},
    "stops": {"stop_token_ids": tuple(range(0, 200, 9)), "temperature": 0.5, "seed": 9},
}
BEGINNINGS = [PROMPT, [3], PROMPT[:9] * 3]


def many() -> list[tuple[int, Generate]]:
    """Requests of all samplings and prompts, over time."""
    return [
        (
            number,
            request(f"{name}/{number}", prompt, **{"max_tokens": 30, "logprobs": 2, **params}),
        )
        for number, prompt in enumerate(BEGINNINGS)
        for name, params in SAMPLINGS.items()
    ]


def check_same(ours: dict[str, Answer], theirs: dict[str, Answer]) -> None:
    for name, answer in theirs.items():
        assert ours[name].tokens == answer.tokens, name
        assert ours[name].finish_reason == answer.finish_reason
        assert ours[name].outputs[-1].stop_token_id == answer.outputs[-1].stop_token_id
        for mine, other in zip(logprobs_of(ours[name]), logprobs_of(answer), strict=True):
            assert mine.token_id == other.token_id
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert mine.top_logprobs == pytest.approx(other.top_logprobs, abs=1e-3)


def logprobs_of(answer: Answer) -> list[Logprobs]:
    return [known for output in answer.outputs for known in output.logprobs or ()]


@pytest.fixture(scope="module")
def expected(runner: ModelRunner) -> dict[str, Answer]:
    return run(tiny_engine(runner, False, enable_prefix_caching=False), many())


@pytest.mark.parametrize(
    "options", [{}, {"enable_prefix_caching": False}, {"max_num_batched_tokens": 17}], ids=str
)
def test_a_models_texts_are_those_without_speculation(
    runner: ModelRunner, expected: dict[str, Answer], options: dict[str, Any]
) -> None:
    engine = tiny_engine(runner, True, **options)
    answers = run(engine, many())
    check_same(answers, expected)
    stats = engine.stats()
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert any(len(output.token_ids) > 1 for a in answers.values() for output in a.outputs)


def test_preempted_and_replayed_texts_too(runner: ModelRunner, expected: dict[str, Answer]) -> None:
    engine = tiny_engine(runner, True)
    replays = [
        (step, replace(one, output_token_ids=tuple(expected[one.request_id].tokens[:step])))
        for step, one in many()
        if len(expected[one.request_id].tokens) > step
    ]
    answers = run(engine, replays)
    for step, one in replays:
        assert answers[one.request_id].tokens == expected[one.request_id].tokens[step:]
    stats = engine.stats()
    assert stats.preemptions > 0
    assert 0 < stats.accepted_tokens < stats.draft_tokens


def test_no_block_with_wrong_drafts_is_shared(
    runner: ModelRunner, expected: dict[str, Answer]
) -> None:
    """Requests that continue the texts find their blocks in the cache, and get the same texts
    as with no cache."""
    follow_ups = [
        request(f"again {one.request_id}", [*one.prompt_token_ids, *answer.tokens], max_tokens=12)
        for (_, one), answer in ((pair, expected[pair[1].request_id]) for pair in many())
    ]
    plain = tiny_engine(runner, False, enable_prefix_caching=False)
    others = run(plain, [(0, follow_up) for follow_up in follow_ups])
    engine = tiny_engine(runner, True)  # last: the engines have their cache in the same memory
    hits = 0
    for (_, one), follow_up in zip(many(), follow_ups, strict=True):
        run(engine, [(0, one)])
        answer = run(engine, [(0, follow_up)])[follow_up.request_id]
        assert answer.tokens == others[follow_up.request_id].tokens
        assert answer.outputs[0].admission is not None
        hits += answer.outputs[0].admission.cached_tokens > len(one.prompt_token_ids)
    assert hits > 10
    assert 0 < engine.stats().accepted_tokens < engine.stats().draft_tokens


@pytest.mark.parametrize("name", SAMPLINGS)
def test_what_follows_drafts_is_sampled_as_from_the_longer_text(name: str) -> None:
    """With penalties far stronger than a text survives: each count must tell."""
    strong = {"repetition_penalty": 3.0, "frequency_penalty": 2.0, "presence_penalty": 1.0}
    stronger = {key: value for key, value in strong.items() if key in SAMPLINGS[name]}
    params = {"max_tokens": 40, "logprobs": 3, **SAMPLINGS[name], **stronger}
    asked = request("r", [1, 2, 3, 2], replayed=[4, 2, 4], **params)
    sequence = Sequence.of(asked, 0, 0.0)
    drafts = (4, 5, 5, 2)
    logits = torch.randn((len(drafts) + 1) * 40, 200, generator=torch.Generator().manual_seed(1))
    logits[:, [2, 4, 5]] += 4
    views = [
        Sequence.of(replace(asked, output_token_ids=(4, 2, 4, *drafts[:end])), 0, 0.0)
        for end in range(len(drafts) + 1)
    ]
    texts = views_to_sample(Chunk(sequence, 6, 1 + len(drafts), True, drafts=drafts))
    assert len(texts) == len(views)
    for start in range(0, len(logits), len(views)):
        rows = logits[start : start + len(views)]
        assert sample(rows, texts) == sample(rows, views)
    assert sequence.token_ids == [1, 2, 3, 2, 4, 2, 4]


def test_metrics_have_the_counters() -> None:
    runner = FakeRunner(vocab_size=1, max_model_len=200, num_blocks=64, block_size=4)
    engine = assemble_engine(runner, max_num_seqs=2, max_num_batched_tokens=16, **OPTIONS)
    metrics = WorkerMetrics("test_speculation:", "m", "main-0.1")
    engine.add(request("r", [0, 0], max_tokens=50))
    while engine.has_work:
        engine.step()
        metrics.stepped(engine.stats(), 0.5)
    stats = engine.stats()
    for name, value in (
        ("drafts", stats.drafts),
        ("draft_tokens", stats.draft_tokens),
        ("accepted_tokens", stats.accepted_tokens),
    ):
        found = REGISTRY.get_sample_value(
            f"test_speculation:spec_decode_num_{name}_total", {"model_name": "m", "engine": "0"}
        )
        assert found == value > 0
    name = "test_speculation:spec_decode_num_accepted_tokens_per_pos_total"
    for position, value in enumerate(stats.accepted_by_position):
        labels = {"model_name": "m", "engine": "0", "position": str(position)}
        assert REGISTRY.get_sample_value(name, labels) == value
    assert sum(stats.accepted_by_position) == stats.accepted_tokens


def test_counts_with_drafts_are_those_of_the_longer_text() -> None:
    counts = TokenCounts()
    counts.update([1, 2, 2, 5], 2)
    more = counts.extended((5, 9, 9, 1))
    whole = TokenCounts()
    whole.update([1, 2, 2, 5, 5, 9, 9, 1], 2)
    assert (more.token_ids, more.in_output) == (whole.token_ids, whole.in_output)
    assert list(counts.token_ids) == [1, 2, 5]
    assert list(counts.in_output) == [0, 1, 1]
