"""With a step in flight all is as without one: the same texts, nothing leaks, one end for each."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.protocol.sampling import RepetitionRule
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.errors import EngineFailed
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Failure
from tests.workers.driving import request, run
from tests.workers.engine.overlapping import Job, LateRunner, overlapping_engine

VOCAB, MAX_LEN = 50, 48


def plain_engine() -> Engine:
    runner = FakeRunner(vocab_size=VOCAB, max_model_len=MAX_LEN, num_blocks=64, block_size=4)
    return assemble_engine(
        runner, max_num_seqs=8, max_num_batched_tokens=48, enable_prefix_caching=False
    )


def alone(one: Generate) -> list[int]:
    """The text of a request by a runner that does not overlap."""
    return run(plain_engine(), [(0, one)])[one.request_id].tokens


def runner_of(engine: Engine) -> LateRunner:
    assert isinstance(engine.runner, LateRunner)
    return engine.runner


def assert_empty(engine: Engine) -> None:
    assert not engine.has_work
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert engine._pool._holders == [0] * engine._pool.num_blocks
    assert runner_of(engine).jobs == []


engines = st.builds(
    overlapping_engine,
    num_blocks=st.integers(12, 40),
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.integers(1, 20),
    enable_prefix_caching=st.booleans(),
)
requests = st.builds(
    lambda prompt, priority, **params: replace(request("?", prompt, **params), priority=priority),
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.integers(-1, 1),
    max_tokens=st.integers(1, 30),
    prompt_logprobs=st.sampled_from([None, None, 0, 2]),
    logprobs=st.sampled_from([None, 1]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.0]),
    stop_token_ids=st.sampled_from([(), (), tuple(range(0, 50, 9))]),
    min_tokens=st.sampled_from([0, 3]),
    allowed_token_ids=st.sampled_from([(), (), (1, 2, 3)]),
    bad_words=st.sampled_from([(), (), ((1,),), ((1, 2), (3, 1, 3), (2, 2))]),
    repetition_detection=st.sampled_from([None, RepetitionRule(1, 4, 2)]),
)
scripts = st.lists(st.tuples(st.integers(0, 20), requests), min_size=1, max_size=12)


def named(script: list[tuple[int, Generate]]) -> list[tuple[int, Generate]]:
    return [(step, replace(one, request_id=str(n))) for n, (step, one) in enumerate(script)]


@settings(max_examples=200, deadline=None)
@given(engines, scripts)
def test_texts_are_those_of_steps_one_after_the_other(
    engine: Engine, script: list[tuple[int, Generate]]
) -> None:
    arrivals = named(script)
    answers = run(engine, arrivals)
    for _, one in arrivals:
        answer = answers[one.request_id]
        expected = run(plain_engine(), [(0, one)])[one.request_id]
        assert answer.tokens == expected.tokens
        reasons = [output.finish_reason for output in answer.outputs]
        assert reasons == [output.finish_reason for output in expected.outputs]
        assert [output.position for output in answer.outputs] == list(range(len(reasons)))
        for ours, theirs in zip(answer.outputs, expected.outputs, strict=True):
            assert ours.logprobs == theirs.logprobs
        first, second = answer.outputs[0].admission, expected.outputs[0].admission
        assert first is not None
        assert second is not None
        assert first.prompt_logprobs == second.prompt_logprobs
    assert_empty(engine)


@settings(max_examples=150, deadline=None)
@given(engines, scripts, st.data())
def test_aborts_in_flight_free_everything(
    engine: Engine, script: list[tuple[int, Generate]], data: st.DataObject
) -> None:
    arrivals = named(script)
    names = [one.request_id for _, one in arrivals]
    aborted = data.draw(st.dictionaries(st.sampled_from(names), st.integers(0, 30)))

    def abort(step: int) -> None:
        for name, when in aborted.items():
            if when == step:
                engine.abort(name)

    answers = run(engine, arrivals, abort)
    for _, one in arrivals:
        tokens = answers[one.request_id].tokens
        assert tokens == alone(one)[: len(tokens)]
        if one.request_id not in aborted:
            assert answers[one.request_id].finish_reason is not None
    assert_empty(engine)


def test_steps_overlap_and_take_their_tokens_from_the_device() -> None:
    engine = overlapping_engine()
    answers = run(engine, [(0, request(name, [1, 2], max_tokens=20)) for name in "abc"])
    assert [len(answer.tokens) for answer in answers.values()] == [20] * 3
    assert engine.stats().steps == 20
    runner = runner_of(engine)
    assert runner.num_overlapped == 19  # all but the first
    assert runner.num_unknown == 3 * 19  # no row is wasted on texts that end by their length


def test_a_text_that_a_stop_token_ends_costs_one_row_and_no_token() -> None:
    one = request("r", range(5), max_tokens=20)
    stop = alone(one)[6]
    engine = overlapping_engine()
    ending = replace(one, sampling=replace(one.sampling, stop_token_ids=(stop,)))
    answer = run(engine, [(0, ending)])["r"]
    assert answer.tokens == alone(ending)
    assert answer.outputs[-1].stop_token_id == stop
    assert runner_of(engine).num_unknown == len(answer.tokens)  # one more than is of use
    assert engine.stats().generated_tokens == len(answer.tokens)
    assert_empty(engine)


def test_the_block_that_a_wasted_row_writes_is_free_one_step_later() -> None:
    engine = overlapping_engine()
    one = request("r", range(7), max_tokens=20)  # the second token's row starts a block
    engine.add(replace(one, sampling=replace(one.sampling, stop_token_ids=(alone(one)[1],))))
    while not any(output.finish_reason for output in engine.step()):
        pass
    assert engine.stats().running == 0
    assert (engine.has_work, engine.stats().blocks_used) == (True, 1)
    assert engine.step() == []
    assert_empty(engine)


def test_an_id_taken_again_while_its_first_request_is_in_flight() -> None:
    engine = overlapping_engine()
    engine.add(request("r", [1, 2, 3]))
    engine.step()
    engine.abort("r")
    second = request("r", [4, 5], max_tokens=6)
    assert run(engine, [(0, second)])["r"].tokens == alone(second)
    assert_empty(engine)


def test_where_blocks_run_out_nothing_is_assumed() -> None:
    engine = overlapping_engine(num_blocks=12, max_num_batched_tokens=48)
    arrivals = [
        (0, request("first", range(20), max_tokens=24)),
        (1, request("second", range(20, 40), max_tokens=24)),
    ]
    answers = run(engine, arrivals)
    assert engine.stats().preemptions == 1
    for _, one in arrivals:
        assert answers[one.request_id].tokens == alone(one)
    assert runner_of(engine).num_overlapped > 20
    assert_empty(engine)


def test_a_newcomer_takes_the_place_of_a_sequence_in_flight() -> None:
    engine = overlapping_engine(max_num_seqs=2)
    arrivals = [
        (0, replace(request("first", range(9), max_tokens=30), tenant="much")),
        (0, replace(request("second", range(9, 19), max_tokens=30), tenant="much")),
        (4, replace(request("third", range(20, 29), max_tokens=5), tenant="little")),
    ]
    answers = run(engine, arrivals)
    assert engine.stats().preemptions == 1
    for _, one in arrivals:
        assert answers[one.request_id].tokens == alone(one)
    assert_empty(engine)


@pytest.mark.parametrize("method", ["launch", "catch_up"])
def test_a_failing_device_is_not_hidden(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    engine = overlapping_engine()
    engine.add(request("r", [1]))
    engine.step()

    def fail(self: LateRunner, _: list[Chunk] | Job) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LateRunner, method, fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()
    assert engine.failed
    with pytest.raises(EngineFailed):
        engine.step()


def test_a_row_that_went_wrong_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = overlapping_engine()
    run_chunk = LateRunner._run_chunk

    def spoilt(self: LateRunner, chunk: Chunk) -> ChunkResult:
        if chunk.sequence.request.request_id == "bad" and chunk.end == 6:
            return ChunkResult(error=Failure("error", "bad"))
        return run_chunk(self, chunk)

    monkeypatch.setattr(LateRunner, "_run_chunk", spoilt)
    monkeypatch.setattr(LateRunner, "_execute", _tolerant(LateRunner._execute))
    good = request("good", [7, 8], max_tokens=12)
    answers = run(engine, [(0, request("bad", [1, 2, 3], max_tokens=9)), (0, good)])
    assert answers["bad"].outputs[-1].error == "bad"
    assert answers["bad"].tokens == alone(request("r", [1, 2, 3], max_tokens=9))[:3]
    assert answers["good"].tokens == alone(good)
    assert_empty(engine)


def _tolerant(
    execute: Callable[[LateRunner, Job], None],
) -> Callable[[LateRunner, Job], None]:
    """Where no token could be chosen, the device continues with some number, as a real one does."""

    def run_anyway(self: LateRunner, job: Job) -> None:
        self.chosen = {s: 0 if token is None else token for s, token in self.chosen.items()}
        execute(self, job)

    return run_anyway
