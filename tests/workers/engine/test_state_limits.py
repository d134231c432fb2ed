"""Where slots are short, and what models with states do without."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.protocol.config import EngineConfig, SpeculativeConfig
from headrace.workers.build import build_engine
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.sequence.sequence import Chunk, ChunkResult
from tests.workers.driving import request, run
from tests.workers.engine.stateful import (
    LONG,
    StatefulRunner,
    ask,
    assert_empty,
    cached,
    long_engine,
    runner_of,
    states_of,
    text_of,
    words,
)

overlapping = pytest.mark.parametrize("overlaps", [False, True])
NGRAM = SpeculativeConfig(
    method="ngram", num_speculative_tokens=4, prompt_lookup_max=4, prompt_lookup_min=2
)


@pytest.mark.parametrize(("num_state_slots", "saves"), [(7, False), (8, True)])
def test_decodes_leave_slots_alone_that_are_not_enough_for_all(
    num_state_slots: int, saves: bool
) -> None:
    engine = long_engine(num_state_slots=num_state_slots)
    shared = words(1, 100)
    ask(engine, shared)
    before = runner_of(engine).num_saved
    run(engine, [(0, request(str(n), words(n, 20), max_tokens=60)) for n in range(4)])
    assert (runner_of(engine).num_saved > before) == saves
    if not saves:
        assert ask(engine, shared) == 96


@overlapping
@pytest.mark.parametrize("num_state_slots", [1, 2, 3])
def test_few_slots_serve_all_one_after_the_other(num_state_slots: int, overlaps: bool) -> None:
    engine = long_engine(num_state_slots=num_state_slots, overlaps=overlaps)
    shared = words(1, 100)
    arrivals = [(0, request(str(n), shared + words(n, n), max_tokens=20)) for n in range(6)]
    answers = run(engine, arrivals, lambda step: check_running(engine, num_state_slots))
    for _, one in arrivals:
        assert answers[one.request_id].tokens == text_of(one)
    assert_empty(engine)
    found = [ask(engine, shared) for _ in range(2)]
    assert found[-1] == (96 if num_state_slots > 1 else 0)


def check_running(engine: Engine, most: int) -> None:
    assert engine.stats().running <= most


def test_the_only_slot_is_taken_with_the_snapshot_in_it() -> None:
    engine = long_engine(num_state_slots=2)
    prompt = words(1, 100)
    ask(engine, prompt, max_tokens=1)
    one, other = request("a", words(2, 20), max_tokens=30), request("b", prompt, max_tokens=9)
    answers = run(engine, [(0, one), (1, other)])
    assert (cached(answers["b"]), runner_of(engine).num_restored) == (96, 0)
    assert [answers["a"].tokens, answers["b"].tokens] == [text_of(one), text_of(other)]
    assert_empty(engine)


def test_a_snapshot_that_is_being_read_makes_a_newcomer_wait_for_one_step() -> None:
    engine = long_engine(num_state_slots=3)
    prompt = words(1, 100)
    ask(engine, prompt, max_tokens=1)
    arrivals = [
        (0, request("a", words(2, 20), max_tokens=30)),
        (1, request("b", prompt, max_tokens=9)),
        (1, request("c", prompt, max_tokens=9)),
    ]
    running = []
    answers = run(engine, arrivals, lambda step: running.append(engine.stats().running))
    first = running.index(2)
    assert running[first : first + 2] == [2, 3]
    assert [cached(answers[name]) for name in "bc"] == [96, 96]
    assert runner_of(engine).num_restored == 1  # the second one has taken the snapshot's own slot
    for _, one in arrivals:
        assert answers[one.request_id].tokens == text_of(one)
    assert_empty(engine)


def test_a_newcomer_takes_the_slot_of_a_sequence_whose_tenant_has_several() -> None:
    engine = long_engine(num_state_slots=2)
    arrivals = [
        (0, replace(request("a", words(1, 20), max_tokens=40), tenant="much")),
        (0, replace(request("b", words(2, 20), max_tokens=40), tenant="much")),
        (4, replace(request("c", words(3, 20), max_tokens=5), tenant="little")),
    ]
    answers = run(engine, arrivals)
    assert engine.stats().preemptions == 1
    for _, one in arrivals:
        assert answers[one.request_id].tokens == text_of(one)
    assert_empty(engine)


def test_a_slot_that_a_snapshot_is_being_saved_to_is_given_to_a_newcomer() -> None:
    engine = long_engine(num_state_slots=2)
    one, other = request("a", words(1, 100)), request("b", words(2, 100))
    engine.add(one)
    engine.step()
    assert states_of(engine)._saving
    engine.add(other)
    texts: dict[str, list[int]] = {"a": [], "b": []}
    most = 0
    while engine.has_work:
        for output in engine.step():
            texts[output.request_id] += output.token_ids
        most = max(most, engine.stats().running)
    assert texts == {"a": text_of(one), "b": text_of(other)}
    assert most == 2
    assert_empty(engine)


def test_states_take_no_drafts() -> None:
    engine = long_engine(speculative_config=NGRAM)
    ask(engine, [1, 2, 3] * 20, max_tokens=40)
    assert engine.stats().drafts == 0
    assert runner_of(engine).num_overlapped > 0


def test_what_is_not_used_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = StatefulRunner(num_state_slots=5, **LONG)
    monkeypatch.setattr("headrace.workers.build.build_runner", lambda *_: runner)
    config = EngineConfig(speculative_config=NGRAM)
    lines: list[str] = []
    build_engine(tmp_path, config, 1, lines.append)
    assert [line for line in lines if "state" in line] == [
        "cache of recurrent layers' states: 5 slots",
        "speculative_config: not used, a recurrent layer's state cannot take drafts back",
    ]


def test_chunks_of_models_without_states_name_no_slots() -> None:
    states = []

    class Watched(FakeRunner):
        def _run_chunk(self, chunk: Chunk) -> ChunkResult:
            states.append(chunk.state)
            return super()._run_chunk(chunk)

    engine = assemble_engine(Watched(**LONG), max_num_seqs=8, max_num_batched_tokens=512)
    run(engine, [(0, request("r", words(1, 100), max_tokens=1))])
    assert states
    assert not any(states)
