"""Sequences whose rotary frequencies are other ones once they are longer than some length."""

from collections.abc import Sequence
from typing import Any

import pytest

from headrace.protocol.config import SpeculativeConfig
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.drafter import Drafter
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from tests.workers.driving import request, run

SWITCH = 24
NGRAM = SpeculativeConfig(
    method="ngram", num_speculative_tokens=4, prompt_lookup_max=3, prompt_lookup_min=1
)
SIZES: dict[str, Any] = {"vocab_size": 3, "max_model_len": 64, "num_blocks": 64, "block_size": 4}


class WatchfulRunner(FakeRunner):
    """Checks that no sequence reads keys of the other frequencies, or those of a token twice."""

    switch_length = SWITCH

    def __init__(self) -> None:
        super().__init__(**SIZES)
        self.is_long: dict[tuple[int, int], bool] = {}  # by block and place in it
        self.drafts = 0

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        for chunk in chunks:
            sequence, end = chunk.sequence, chunk.start + chunk.count
            is_long = len(sequence.token_ids) + len(chunk.drafts) > SWITCH
            assert sequence.is_long == is_long
            places = [(sequence.blocks[n // 4], n % 4) for n in range(end)]
            assert all(self.is_long[place] == is_long for place in places[: chunk.start])
            self.is_long.update(dict.fromkeys(places[chunk.start :], is_long))
            self.drafts += len(chunk.drafts)
        return super().run(chunks)


@pytest.mark.parametrize("speculates", [False, True])
def test_they_are_computed_again_with_the_other_frequencies(
    speculates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drafter, "should_draft", lambda drafter, decodes: True)
    runner = WatchfulRunner()
    drafts = NGRAM if speculates else None
    limits: dict[str, Any] = {"max_num_seqs": 8, "max_num_batched_tokens": 16}
    engine = assemble_engine(runner, speculative_config=drafts, **limits)
    prompt = tuple(range(1, 3)) * 11
    arrivals = [
        (0, request("grows", prompt, max_tokens=12)),
        (1, request("stays short", prompt[:8], max_tokens=SWITCH - 8)),
        (20, request("shares short", prompt[:18], max_tokens=2)),
        (40, request("is long", (*prompt, 0, 0, 0, 1, 2), max_tokens=4)),
        (50, request("shares long", (*prompt, 0, 0, 0, 1, 2, 1), max_tokens=2)),
    ]
    answers = run(engine, arrivals)
    assert all(answer.finish_reason == "length" for answer in answers.values())
    assert engine.stats().preemptions == 1  # of the one that grows
    assert (runner.drafts > 0) == speculates
    assert engine.stats().cached_tokens > 0
