"""Whatever comes in whatever order: no block leaks, one end for each request, the same texts."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.protocol.to_worker import Generate
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.errors import EngineFailed, RejectedByEngine
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Failure
from tests.workers.driving import request, run

VOCAB = 50
MAX_LEN = 48


def fake_engine(num_blocks: int = 64, block_size: int = 4, **options: Any) -> Engine:
    runner = FakeRunner(
        vocab_size=VOCAB, max_model_len=MAX_LEN, num_blocks=num_blocks, block_size=block_size
    )
    return assemble_engine(runner, **{"max_num_seqs": 8, "max_num_batched_tokens": 16, **options})


def assert_empty(engine: Engine) -> None:
    """Nothing is held: no request, no block, and the pool's counts say so of each block."""
    assert not engine.has_work
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert engine._pool._holders == [0] * engine._pool.num_blocks
    assert engine._pool.free_count == engine._pool.num_blocks


engines = st.builds(
    fake_engine,
    num_blocks=st.integers(12, 40),
    block_size=st.just(4),
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.integers(1, 20),
    enable_prefix_caching=st.booleans(),
)
# few different tokens, so that prefixes coincide
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=30)
requests = st.builds(
    lambda prompt, max_tokens, priority, prompt_logprobs, tenant: replace(
        request("?", prompt, max_tokens=max_tokens, prompt_logprobs=prompt_logprobs),
        priority=priority,
        tenant=tenant,
    ),
    prompts,
    st.integers(1, 30),
    st.integers(-1, 1),
    st.sampled_from([None, None, 0, 2]),
    st.sampled_from(["much", "much", "much", "much", "little", "less"]),
)
scripts = st.lists(st.tuples(st.integers(0, 20), requests), min_size=1, max_size=12)


def named(script: list[tuple[int, Generate]]) -> list[tuple[int, Generate]]:
    return [(step, replace(one, request_id=str(n))) for n, (step, one) in enumerate(script)]


def alone(one: Generate) -> list[int]:
    """The text of a request in an engine of its own, with room for all."""
    engine = fake_engine(max_num_batched_tokens=MAX_LEN, enable_prefix_caching=False)
    return run(engine, [(0, one)])[one.request_id].tokens


@settings(max_examples=150, deadline=None)
@given(engines, scripts)
def test_texts_depend_on_nothing_but_the_request(
    engine: Engine, script: list[tuple[int, Generate]]
) -> None:
    arrivals = named(script)
    answers = run(engine, arrivals)
    for _, one in arrivals:
        answer = answers[one.request_id]
        reasons = [output.finish_reason for output in answer.outputs]
        assert reasons[:-1] == [None] * (len(reasons) - 1)
        assert reasons[-1] == "length"
        assert answer.tokens == alone(one)
        positions = [output.position for output in answer.outputs]
        assert positions == list(range(len(answer.tokens)))
        assert [output.admission is not None for output in answer.outputs] == [
            True,
            *[False] * (len(reasons) - 1),
        ]
        assert answer.outputs[0].admission is not None
        described = answer.outputs[0].admission.prompt_logprobs
        if one.sampling.prompt_logprobs is None:
            assert described is None
        else:
            assert described is not None
            assert [known.token_id for known in described] == list(one.prompt_token_ids[1:])
    assert_empty(engine)


@settings(max_examples=100, deadline=None)
@given(engines, scripts, st.data())
def test_aborts_free_everything(
    engine: Engine, script: list[tuple[int, Generate]], data: st.DataObject
) -> None:
    arrivals = named(script)
    aborted = data.draw(
        st.dictionaries(
            st.sampled_from([one.request_id for _, one in arrivals]), st.integers(0, 30)
        )
    )

    def abort(step: int) -> None:
        for name, when in aborted.items():
            if when == step:
                engine.abort(name)
        engine.abort("nobody")

    answers = run(engine, arrivals, abort)
    for _, one in arrivals:
        answer = answers[one.request_id]
        if one.request_id not in aborted:
            assert answer.finish_reason == "length"
        assert answer.tokens == alone(one)[: len(answer.tokens)]
    assert_empty(engine)


@settings(max_examples=60, deadline=None)
@given(engines, requests, st.data())
def test_replays_go_on_where_the_text_was_cut(
    engine: Engine, one: Generate, data: st.DataObject
) -> None:
    text = alone(one)
    cut = data.draw(st.integers(0, len(text) - 1))
    replay = replace(one, output_token_ids=tuple(text[:cut]))
    answer = run(engine, [(0, replay)])["?"]
    assert answer.tokens == text[cut:]
    assert answer.outputs[0].position == cut
    assert_empty(engine)


def test_decodes_are_not_starved_by_a_long_prompt() -> None:
    engine = fake_engine(max_num_batched_tokens=4)
    engine.add(request("short", [1], max_tokens=20))
    engine.step()
    engine.add(request("long", range(40), max_tokens=1))
    for _ in range(10):
        assert "short" in [output.request_id for output in engine.step()]
        assert engine.stats().step_tokens == 4


def test_lower_priority_numbers_run_first() -> None:
    engine = fake_engine(max_num_seqs=1)
    for name, priority in (("a", 5), ("b", 5), ("c", -1)):
        engine.add(replace(request(name, [1, 2], max_tokens=1), priority=priority))
    ended = [output.request_id for _ in range(3) for output in engine.step()]
    assert ended == ["c", "a", "b"]


def test_preemption_takes_the_lowest_priority_and_its_text_is_whole() -> None:
    engine = fake_engine(num_blocks=12, max_num_batched_tokens=48)
    first = replace(request("first", range(20), max_tokens=24), priority=3)
    second = replace(request("second", range(20, 40), max_tokens=24), priority=0)
    answers = run(engine, [(0, first), (1, second)])
    assert engine.stats().preemptions == 1
    steps = {name: len(answer.tokens) for name, answer in answers.items()}
    assert steps == {"first": 24, "second": 24}
    assert answers["first"].tokens == alone(first)
    assert_empty(engine)


def test_a_second_equal_prompt_is_found_in_the_cache() -> None:
    engine = fake_engine()
    cached, written = [], []
    for name in "ab":
        answer = run(engine, [(0, request(name, range(20)))])[name]
        assert answer.outputs[0].admission is not None
        cached.append(answer.outputs[0].admission.cached_tokens)
        written.append(answer.outputs[0].admission.written_tokens)
    assert cached == [0, 16]  # of 20 the last block is run again: its last token must be
    assert written == [20, 4]
    assert engine.stats().prefix_queried == 40
    assert engine.stats().cached_tokens == 16


@pytest.mark.parametrize(
    ("tokens", "settings", "written"),
    [
        (3, {}, 0),
        (22, {}, 20),
        (46, {"max_num_batched_tokens": 16}, 44),
        (20, {"enable_prefix_caching": False}, 0),
    ],
)
def test_full_blocks_of_the_prompt_are_kept(
    tokens: int, settings: dict[str, Any], written: int
) -> None:
    answer = run(fake_engine(**settings), [(0, request("a", range(tokens)))])["a"]
    assert answer.outputs[0].admission is not None
    assert answer.outputs[0].admission.written_tokens == written
    assert all(output.admission is None for output in answer.outputs[1:])


@pytest.mark.parametrize("change", [{"cache_salt": "x"}, {"prompt_token_ids": (9, *range(1, 20))}])
def test_other_salts_and_other_beginnings_share_nothing(change: dict[str, Any]) -> None:
    engine = fake_engine()
    run(engine, [(0, request("a", range(20)))])
    answer = run(engine, [(0, replace(request("b", range(20)), **change))])["b"]
    assert answer.outputs[0].admission is not None
    assert answer.outputs[0].admission.cached_tokens == 0


def test_a_newcomer_is_not_admitted_only_to_be_preempted() -> None:
    engine = fake_engine(num_blocks=12, max_num_batched_tokens=64)
    arrivals = [(0, request("a", range(20))), (0, request("b", range(20, 48), max_tokens=4))]
    answers = run(engine, [*arrivals, (1, request("c", [49] * 5, max_tokens=40))])
    assert [len(answers[name].tokens) for name in "abc"] == [8, 4, 40]
    stats = engine.stats()
    assert (stats.preemptions, stats.prompt_tokens) == (0, 20 + 28 + 5)


def test_a_request_that_takes_every_block_is_admitted_alone() -> None:
    engine = fake_engine(num_blocks=12, max_num_batched_tokens=64)
    answers = run(engine, [(0, request("a", [1])), (0, request("b", range(2, 49)))])
    assert [len(answers[name].tokens) for name in "ab"] == [8, 1]


def test_stop_tokens_end_a_text_and_are_part_of_it() -> None:
    text = alone(request("r", range(5), max_tokens=20))
    stop = text[6]
    short = text[: text.index(stop) + 1]
    answer = run(
        fake_engine(), [(0, request("r", range(5), max_tokens=20, stop_token_ids=(stop,)))]
    )
    last = answer["r"].outputs[-1]
    assert answer["r"].tokens == short
    assert (last.finish_reason, last.stop_token_id) == ("stop", stop)


def test_the_context_ends_a_text() -> None:
    answer = run(fake_engine(), [(0, request("r", range(40), max_tokens=1000))])["r"]
    assert len(answer.tokens) == MAX_LEN - 40
    assert answer.finish_reason == "length"


BAD = {
    "prompt_token_ids is empty": request("r", []),
    "prompt_token_ids has an id": request("r", [1, VOCAB]),
    "prompt_token_ids has an id that": request("r", [-1]),
    "output_token_ids has an id": request("r", [1], replayed=[VOCAB]),
    "leave no room": request("r", [1] * MAX_LEN),
    "max_tokens": request("r", [1], max_tokens=0),
    "max_tokens must": request("r", [1], replayed=[1, 2], max_tokens=2),
    "adapter": replace(request("r", [1]), adapter="x"),
    "seed": request("r", [1], seed=-1),
    "temperature": request("r", [1], temperature=float("nan")),
    "temperature must": request("r", [1], temperature=float("inf")),
    "temperature must be from 0.0 to 10000.0": request("r", [1], temperature=10001.0),
    "top_p": request("r", [1], top_p=1.5),
    "top_k": request("r", [1], top_k=-1),
    "min_p": request("r", [1], min_p=-0.1),
    "repetition_penalty": request("r", [1], repetition_penalty=0.0),
    "repetition_penalty must": request("r", [1], repetition_penalty=1e-320),
    "repetition_penalty must be": request("r", [1], repetition_penalty=1001.0),
    "presence_penalty": request("r", [1], presence_penalty=float("nan")),
    "presence_penalty must": request("r", [1], presence_penalty=-1e39),
    "frequency_penalty": request("r", [1], frequency_penalty=float("-inf")),
    "min_tokens": request("r", [1], min_tokens=-1),
    "logprobs": request("r", [1], logprobs=VOCAB + 1),
    "prompt_logprobs": request("r", [1], prompt_logprobs=-1),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_requests_are_refused_and_the_engine_goes_on(reason: str) -> None:
    engine = fake_engine()
    with pytest.raises(RejectedByEngine, match=reason) as caught:
        engine.add(BAD[reason])
    assert not caught.value.retry_elsewhere
    assert_empty(engine)
    assert len(run(engine, [(0, request("r", [1]))])["r"].tokens) == 8


@pytest.mark.parametrize(
    "params",
    [{"temperature": 1e4}, {"repetition_penalty": 1e-3}, {"repetition_penalty": 1e3}],
    ids=str,
)
def test_extremes_are_taken(params: dict[str, Any]) -> None:
    answer = run(fake_engine(), [(0, request("r", [1], **params))])["r"]
    assert answer.finish_reason == "length"


def test_an_id_in_use_is_refused() -> None:
    engine = fake_engine()
    engine.add(request("r", [1]))
    with pytest.raises(RejectedByEngine, match="request_id"):
        engine.add(request("r", [2]))


def test_a_failing_runner_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine()
    engine.add(request("r", [1]))

    def fail(self: FakeRunner, chunks: list[Chunk]) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FakeRunner, "run", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()
    assert engine.failed
    for call in (engine.step, lambda: engine.add(request("s", [1]))):
        with pytest.raises(EngineFailed):
            call()


def test_a_chunk_that_went_wrong_ends_its_request_and_is_not_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = fake_engine(max_num_batched_tokens=32)
    engine.add(request("r", range(20)))
    with monkeypatch.context() as patch:
        patch.setattr(
            FakeRunner, "run", lambda self, chunks: [ChunkResult(error=Failure("error", "bad"))]
        )
        (output,) = engine.step()
    assert (output.finish_reason, output.error, output.token_ids) == ("error", "bad", ())
    assert_empty(engine)
    answer = run(engine, [(0, request("s", range(20)))])["s"]
    assert answer.outputs[0].admission is not None
    assert answer.outputs[0].admission.cached_tokens == 0
