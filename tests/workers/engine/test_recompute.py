"""Running requests that are run again from the first token: their cache is worth nothing."""

from typing import Any

import pytest

from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from tests.workers.driving import request, run
from tests.workers.engine.overlapping import LateRunner

SIZES: dict[str, Any] = {"vocab_size": 50, "max_model_len": 64, "num_blocks": 64, "block_size": 4}
PROMPTS = [tuple(range(20)), (1, 2, 3), tuple(range(20))]


@pytest.mark.parametrize("runner", [FakeRunner, LateRunner])
@pytest.mark.parametrize("at", [0, 1, 2, 5, 9])
def test_texts_stay_the_same(runner: type[FakeRunner], at: int) -> None:
    def engine() -> Engine:
        return assemble_engine(runner(**SIZES), max_num_seqs=8, max_num_batched_tokens=16)

    arrivals = [
        (2 * number, request(str(number), prompt, max_tokens=20))
        for number, prompt in enumerate(PROMPTS)
    ]
    expected = run(engine(), arrivals)
    other = engine()

    def reset(step: int) -> None:
        if step == at:
            other.reset_prefix_cache(recompute_running=True)

    answers = run(other, arrivals, reset)
    for name, answer in expected.items():
        assert answers[name].tokens == answer.tokens
    assert (other.stats().preemptions > 0) == (at > 0)
    assert other.stats().blocks_used == 0
