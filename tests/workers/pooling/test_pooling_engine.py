"""The engine around a runner that pools: its queue, its steps, and what it rejects."""

from collections.abc import Callable, Sequence

import pytest

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_frontend import Pooled
from headrace.protocol.to_worker import Encode, Generate
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.errors import EngineFailed, RejectedByEngine
from headrace.workers.pooling.engine import PoolingEngine
from headrace.workers.pooling.fake_runner import FakePoolingRunner
from headrace.workers.pooling.runner import EncodeResult, TextLimits
from headrace.workers.pooling.token_budget import MIN_TOKENS, TokenBudget
from headrace.workers.process.engine_memory import EngineMemory
from headrace.workers.sequence.sequence import Failure
from tests.workers.pooling.driving import encode, numbers, run

LIMITS = TextLimits(("embed", "token_embed"), 100, 64, 8, (4, 6), num_token_types=2)


class Recorder(FakePoolingRunner):
    """Notes the texts of each step; `fails` says which texts have no numbers."""

    def __init__(self, limits: TextLimits = LIMITS, fails: Sequence[str] = ()) -> None:
        super().__init__(limits)
        self.steps: list[list[str]] = []
        self.fails, self.is_broken = fails, False

    def run(self, requests: Sequence[Encode], report: Callable[[], None]) -> list[EncodeResult]:
        if self.is_broken:
            raise RuntimeError("the device is gone")
        self.steps.append([request.request_id for request in requests])
        report()
        results = super().run(requests, report)
        failure = Failure("rejected", "input: no numbers")
        return [
            failure if request.request_id in self.fails else result
            for request, result in zip(requests, results, strict=True)
        ]


def engine_of(runner: FakePoolingRunner, texts: int = 8, tokens: int = 256) -> PoolingEngine:
    return PoolingEngine(runner, max_num_seqs=texts, max_num_batched_tokens=tokens)


def test_each_text_has_one_output_with_its_numbers() -> None:
    runner = Recorder()
    found = run(engine_of(runner), [encode("a", [1, 2]), encode("b", [3]), encode("c", [1, 2])])
    assert runner.steps == [["a", "b", "c"]]
    assert {output.finish_reason for output in found.values()} == {"stop"}
    assert all(output.admission is not None and output.position == 0 for output in found.values())
    assert found["a"].pooled == found["c"].pooled != found["b"].pooled
    assert abs(numbers(found["a"].pooled)).sum() > 0
    by_token = run(engine_of(runner), [encode("t", [1, 2, 3], "token_embed")])["t"].pooled
    assert numbers(by_token).shape == (3, 8)


def test_steps_are_bounded_by_texts_and_by_tokens() -> None:
    runner = Recorder()
    engine = engine_of(runner, texts=2, tokens=40)
    run(engine, [encode(str(n), [1] * 10) for n in range(3)])
    assert runner.steps == [["0", "1"], ["2"]]
    runner.steps.clear()
    run(engine, [encode("long", [1] * 60), encode("a", [1] * 20), encode("b", [1] * 21)])
    assert runner.steps == [["long"], ["a"], ["b"]]  # a text longer than a step runs by itself
    assert engine.stats().prompt_tokens == 30 + 101
    assert engine.stats().steps == 5


def test_tenants_take_turns_and_priorities_go_first() -> None:
    runner = Recorder()
    engine = engine_of(runner, texts=1)
    crowd = [encode(f"a{n}", [1] * 60, tenant="a") for n in range(30)]
    run(engine, [*crowd, encode("b", [2], tenant="b"), encode("first", [3], priority=-1)])
    order = [step[0] for step in runner.steps]
    assert order[0] == "first"
    assert order.index("b") < 20  # not behind all of a's


def test_an_aborted_text_is_not_run() -> None:
    runner = Recorder()
    engine = engine_of(runner, texts=1)
    for name in ("a", "b"):
        engine.add(encode(name, [1]))
    engine.abort("a")
    engine.abort("unknown")
    assert [output.request_id for output in engine.step()] == ["b"]
    assert runner.steps == [["b"]]
    assert not engine.has_work
    assert engine.load().waiting == engine.load().running == 0


def test_one_text_without_numbers_does_not_fail_others() -> None:
    found = run(engine_of(Recorder(fails=["bad"])), [encode("bad", [1]), encode("good", [2])])
    assert (found["bad"].finish_reason, found["bad"].pooled) == ("rejected", None)
    assert found["bad"].error == "input: no numbers"
    assert found["good"].pooled is not None


def test_an_engine_whose_runner_fails_runs_no_more() -> None:
    runner = Recorder()
    engine = engine_of(runner)
    engine.add(encode("a", [1]))
    runner.is_broken = True
    with pytest.raises(RuntimeError):
        engine.step()
    with pytest.raises(EngineFailed):
        engine.add(encode("b", [1]))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (encode("r", []), "prompt_token_ids"),
        (encode("r", [100]), "prompt_token_ids"),
        (encode("r", [-1]), "prompt_token_ids"),
        (encode("r", [1] * 65), "prompt_token_ids"),
        (encode("r", [1], "classify"), "task"),
        (encode("r", [1, 2], token_type_ids=(0,)), "token_type_ids"),
        (encode("r", [1, 2], token_type_ids=(0, 2)), "token_type_ids"),
        (encode("r", [1, 2], prompt_length=2), "prompt_length"),
        (encode("r", [1], dimensions=9), "dimensions"),
        (encode("r", [1], dimensions=5), "dimensions"),
        (encode("r", [1], adapter="x"), "adapter"),
        (Generate("r", (1,), SamplingParams(0, 1)), "task"),
    ],
)
def test_what_cannot_run_is_rejected(request_: Encode, reason: str) -> None:
    engine = engine_of(Recorder())
    with pytest.raises(RejectedByEngine, match=f"^{reason}") as caught:
        engine.add(request_)
    assert not caught.value.retry_elsewhere
    assert not engine.has_work


def test_ids_are_unique_and_uncut_models_say_so() -> None:
    engine = engine_of(Recorder())
    engine.add(encode("r", [1], dimensions=4))
    with pytest.raises(RejectedByEngine, match="request_id"):
        engine.add(encode("r", [1]))
    plain = engine_of(Recorder(TextLimits(("embed",), 100, 64, 8)))
    with pytest.raises(RejectedByEngine, match="dimensions: this model"):
        plain.add(encode("s", [1], dimensions=4))


def test_a_generating_engine_rejects_what_pools() -> None:
    runner = FakeRunner(vocab_size=100, max_model_len=64, num_blocks=8, block_size=16)
    engine = assemble_engine(runner, max_num_seqs=4, max_num_batched_tokens=64)
    with pytest.raises(RejectedByEngine, match="task"):
        engine.add(encode("r", [1]))


def test_a_model_that_sleeps_deeply_comes_back() -> None:
    memory = EngineMemory(engine_of(Recorder()), Recorder)
    before = run_in(memory)
    for level in (1, 2):
        memory.sleep(level)
        assert memory.missing
        memory.wake(("weights", "kv_cache"))
        assert not memory.missing
        assert run_in(memory) == before


def run_in(memory: EngineMemory) -> Pooled | None:
    engine = memory.engine
    assert isinstance(engine, PoolingEngine)
    return run(engine, [encode("a", [1, 2])])["a"].pooled


def test_long_steps_tell_that_they_proceed() -> None:
    engine, told = engine_of(Recorder()), []
    engine.on_progress = lambda: told.append(1)
    run(engine, [encode("a", [1])])
    assert told


def test_tokens_of_a_step_follow_its_time() -> None:
    budget = TokenBudget(100_000)
    first = budget.tokens
    budget.observe(1000, 0.01)
    assert budget.tokens > first
    for _ in range(50):
        budget.observe(1000, 10.0)
    assert budget.tokens == MIN_TOKENS
    budget.observe(3, 10.0)  # tells nothing
    for _ in range(50):  # texts seldom fill a step to its last token
        budget.observe(MIN_TOKENS - 1, 0.001)
    assert budget.tokens > 100 * MIN_TOKENS
    small = TokenBudget(50)
    assert small.tokens == 50
    small.observe(1000, 10.0)
    assert small.tokens == 50
