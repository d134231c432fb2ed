"""The roofline benchmark: its arithmetic, the shapes of its floor, its reading of /proc."""

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bench import roofline
from bench.roof import checks, rounds
from bench.roof.driver import Driver, Gaps
from bench.roof.floor import Floor, ModelSizes, read_sizes
from bench.roof.limits import multiplications, numbers_of
from bench.roof.memory import Resident, memory_outcome, parse_rollup
from bench.roof.overhead import overhead, overhead_outcome
from bench.roof.probes import Numbers, load_probes
from bench.roof.rounds import Outcome, Timed, alternate, percentile, repeated, settle
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.native.library import usable_kernels
from headrace.workers.native.weight_format import WeightFormat
from tests.workers.processors import needs_kernels

VOCAB = 512


@pytest.fixture
def driver() -> Driver:
    """Drives an engine without a model, whose step runs 64 tokens at most."""
    runner = FakeRunner(
        vocab_size=VOCAB, max_model_len=8192, num_blocks=4096, block_size=16, step_s=0.0
    )
    return Driver(assemble_engine(runner, max_num_seqs=64, max_num_batched_tokens=64), VOCAB)


class TestArithmetic:
    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(0, 100))
    def test_percentiles_are_those_of_numpy(self, values: list[float], percent: int) -> None:
        expected = np.percentile(values, percent, method="inverted_cdf")
        assert percentile(values, percent) == expected

    def test_no_values_have_no_percentile(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            percentile([], 99)

    def test_a_ratio_is_the_median_of_the_rounds(self) -> None:
        # The machine is ten times slower in the second round, for both.
        timed = Timed([[2.0, 3.0, 9.0], [30.0], [4.0]], [[1.0, 2.0, 3.0], [10.0], [2.0]])
        assert timed.ratios == [1.5, 3.0, 2.0]
        outcome = timed.outcome("what", 2.0, "step", "floor")
        assert outcome.ratio == 2.0
        assert outcome.passed
        assert outcome.facts["step ms"] == 4000.0
        assert outcome.facts["floor ms"] == 2000.0
        assert outcome.facts["best over best"] == 2.0
        assert (outcome.facts["lowest round"], outcome.facts["highest round"]) == (1.5, 3.0)

    def test_a_missed_bar_shows(self) -> None:
        outcome = Outcome("decode", 1.26, 1.1, {"step ms": 33.123456})
        assert "1.260 x" in outcome.line()
        assert "bar 1.1: MISSED" in outcome.line()
        assert "step ms 33.12" in outcome.line()
        assert outcome.as_json()["passed"] is False
        assert "ok" in Outcome("decode", 1.1, 1.1, {}).line()
        assert not Outcome("share", 0.79, 0.8, {}, is_least=True).passed
        assert Outcome("share", 0.8, 0.8, {}, is_least=True).passed

    def test_the_two_sides_take_turns(self) -> None:
        order = []

        def side(name: str, seconds: float) -> rounds.Turn:
            def run() -> float:
                order.append(name)
                return seconds

            return repeated(run)

        timed = alternate(side("a", 2.0), side("b", 1.0), rounds=2, repeats=2)
        # One more of each turn than is counted, and the other side first in the second round.
        assert order == [*"aaa", *"bbb", *"bbb", *"aaa"]
        assert timed == Timed([[2.0, 2.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]])

    def test_only_the_first_of_a_turn_is_left_out(self) -> None:
        seconds = iter([9.0, 1.0, 2.0, 3.0])
        assert repeated(lambda: next(seconds))(3) == [1.0, 2.0, 3.0]

    def test_threads_that_never_rest_are_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cpu_s = itertools.count()
        monkeypatch.setattr(rounds, "SETTLE_TIMEOUT_S", 0.02)
        monkeypatch.setattr(time, "process_time", lambda: next(cpu_s))
        with pytest.raises(RuntimeError, match="still busy"):
            settle()

    def test_threads_that_come_to_rest_are_waited_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cpu_s = itertools.chain([0.0, 1.0, 1.0, 2.0], itertools.repeat(2.0))
        monkeypatch.setattr(time, "process_time", lambda: next(cpu_s))
        settle()
        assert next(cpu_s) == 2.0, "it has not looked again while they were busy"

    def test_the_wait_for_tokens(self) -> None:
        quiet = Gaps(plain=[0.1, 0.1, 0.3], disturbed=[0.2] * 198 + [0.4, 0.5])
        worse = Gaps(plain=[0.1], disturbed=[0.9])
        outcome = checks.arrival_outcome([quiet, worse, quiet])
        assert outcome.ratio == pytest.approx(2.0)  # p99 of 200: the 198th
        assert outcome.facts["highest round"] == pytest.approx(9.0)
        assert outcome.facts["median alone ms"] == pytest.approx(100.0)


class TestFloor:
    def sizes(self, folder: Path, tied: bool) -> ModelSizes:
        """Of a small Llama; its file holds what transformers would have stored."""
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": tied,
        }
        (folder / "config.json").write_text(json.dumps(config))
        save_file({"a": np.zeros((3, 5), "f4")}, str(folder / "model-1.safetensors"))
        save_file({"b": np.zeros(7, "f4")}, str(folder / "model-2.safetensors"))
        return read_sizes(folder)

    @pytest.mark.parametrize("tied", [False, True])
    def test_shapes(self, tmp_path: Path, tied: bool) -> None:
        sizes = self.sizes(tmp_path, tied)
        attention = [(32, 32), (16, 32), (16, 32), (32, 32)]
        mlp = [(48, 32), (48, 32), (32, 48)]
        assert sorted(sizes.products) == sorted((attention + mlp) * 2)
        assert sizes.head == (VOCAB, 32)
        assert sizes.parameters == 3 * 5 + 7
        assert sizes.cache_elements == 2 * 2 * 2 * 8  # K and V, layers, heads, head size
        assert sizes.vocab_size == VOCAB

    def test_the_head_runs_on_sampled_rows_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = ModelSizes(((8, 4), (4, 8)), (64, 4), 0, 0, 64)
        floor, seen = Floor(sizes, torch.bfloat16), []
        linear = torch.nn.functional.linear

        def note(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            seen.append((tuple(x.shape), tuple(weight.shape), weight.dtype))
            return linear(x, weight)

        monkeypatch.setattr("bench.roof.floor.linear", note)
        assert floor.run(5, 1) > 0
        assert seen == [
            ((5, 4), (8, 4), torch.bfloat16),
            ((5, 8), (4, 8), torch.bfloat16),
            ((1, 4), (64, 4), torch.bfloat16),
        ]


class TestDriver:
    def test_prompts_are_never_the_same(self, driver: Driver) -> None:
        prompts = {driver.prompt(16) for _ in range(50)}
        assert len(prompts) == 50
        assert all(0 <= token_id < VOCAB for prompt in prompts for token_id in prompt)

    def test_streams_decode_until_they_are_stopped(self, driver: Driver) -> None:
        driver.start([driver.prompt(40) for _ in range(5)])
        engine = driver.engine
        before = engine.stats()
        assert (before.running, before.waiting) == (5, 0)
        assert driver.step() > 0
        assert engine.stats().generated_tokens - before.generated_tokens == 5
        driver.stop()
        assert not engine.has_work

    def test_a_prompt_that_arrives_takes_its_steps(self, driver: Driver) -> None:
        driver.start([driver.prompt(20) for _ in range(4)])
        steps = driver.engine.stats().steps
        gaps = Gaps()
        driver.disturb(driver.prompt(600), gaps, plain_steps=3)
        prompt_steps = driver.engine.stats().steps - steps - 3
        assert prompt_steps == -(-600 // 60)  # 64 tokens a step, of which 4 decode
        assert len(gaps.plain) == 3
        assert len(gaps.disturbed) == prompt_steps * 4
        assert all(gap > 0 for gap in gaps.plain + gaps.disturbed)

    def test_the_first_token_is_timed_and_the_answer_whole(self, driver: Driver) -> None:
        started_s = time.perf_counter()
        first_s, answer = driver.answer(driver.prompt(200), 7)
        assert 0 < first_s < time.perf_counter() - started_s
        assert len(answer) == 7
        assert not driver.engine.has_work

    def test_a_second_turn_finds_the_first(self, driver: Driver) -> None:
        bench = checks.Bench(driver, Floor(ModelSizes((), (8, 4), 0, 0, 8), torch.float32), 2, 1)
        (outcome,) = checks.turn(bench)
        assert outcome.bar == checks.TURN_BAR
        turns = 2 * (2 * checks.TURN_TOKENS + checks.ANSWER_TOKENS + checks.QUESTION_TOKENS)
        stats = driver.engine.stats()
        assert stats.prefix_queried == turns
        # All of a first turn but for its last, partial block; none of it in the first turns.
        assert stats.cached_tokens >= 2 * checks.TURN_TOKENS


class TestLimits:
    def test_what_is_multiplied(self) -> None:
        sizes = ModelSizes(((8, 4), (4, 8)), (64, 4), 0, 0, 64)
        assert multiplications(sizes, 10) == 10 * 64 + 256
        floats, blocks = {WeightFormat.FLOAT}, {WeightFormat.Q4_0, WeightFormat.Q8_0}
        assert numbers_of(floats, is_bfloat16=True) == Numbers.PAIRS
        assert numbers_of(floats, is_bfloat16=False) == Numbers.FLOATS
        assert numbers_of(blocks, is_bfloat16=True) == Numbers.CODES
        assert numbers_of({WeightFormat.Q8_0}, is_bfloat16=True) == Numbers.BYTES

    @needs_kernels
    def test_the_probes_are_as_fast_as_they_may_be(self) -> None:
        """More than plain code of one number after another reaches, less than any processor."""
        probes = load_probes(usable_kernels()[0], 1)
        assert 0.5e9 < probes.read() < 1e12
        for numbers in Numbers:
            assert 1e9 < probes.multiply(numbers) < 1e13


class TestMemory:
    def test_the_rollup_of_this_process(self) -> None:
        resident = parse_rollup(Path(f"/proc/{os.getpid()}/smaps_rollup").read_text())
        assert 10e6 < resident.pss <= resident.rss

    def test_a_rollup_that_lacks_a_line(self) -> None:
        with pytest.raises(ValueError, match="lacks"):
            parse_rollup("Rss:  12 kB\nSwapPss: 3 kB\n")

    def test_what_is_over(self) -> None:
        outcome = memory_outcome(
            Resident(rss=1_500_000_000, pss=1_400_000_000), 269_000_000, 256_000_000
        )
        assert (outcome.ratio, outcome.unit) == (975.0, "MB")
        assert not outcome.passed


class TestOverhead:
    def test_what_is_added(self) -> None:
        # The machine wakes sleepers 4 ms late in the second round.
        outcome = overhead_outcome([[0.021], [0.0255], [0.022]], [[0.02, 0.02], [0.024], [0.02]])
        assert outcome.ratio == pytest.approx(1.5)
        assert outcome.unit == "ms"
        assert outcome.facts["highest round"] == pytest.approx(2.0)

    def test_a_real_pool(self, fake_model: Path) -> None:
        outcome = overhead(str(fake_model), VOCAB, rounds=1)
        assert outcome.facts["bare step ms"] >= 20.0
        assert outcome.facts["token ms"] >= 20.0


class TestOptions:
    def test_what_is_chosen(self) -> None:
        options = roofline.parse(["--only", "memory,decode", "--kv-cache-bytes", "1MiB"])
        assert options.only == ("memory", "decode")
        assert options.kv_cache_bytes == 2**20
        assert roofline.parse([]).only == roofline.DEFAULT_NAMES
        assert roofline.parse([]).kv_cache_bytes == 3 * 2**29

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--only", "speed"], "'speed'"),
            (["--rounds", "0"], "--rounds"),
            (["--kv-cache-bytes", "much"], "--kv-cache-bytes"),
        ],
    )
    def test_wrong_ones(
        self, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            roofline.parse(arguments)
        assert complaint in capsys.readouterr().err
