"""Which snapshots of states are made, who finds them, and what happens when slots are short."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.protocol.config import EngineConfig, SpeculativeConfig
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_engine
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.engine.state_cache import StateCache
from headrace.workers.engine.state_slots import StateSlots
from headrace.workers.sequence.sequence import Chunk, Sequence
from tests.workers.driving import Answer, request, run
from tests.workers.engine.stateful import (
    StatefulRunner,
    assert_empty,
    plain_engine,
    runner_of,
    stateful_engine,
    states_of,
)

LONG = {"max_model_len": 1024, "num_blocks": 256, "block_size": 16}
overlapping = pytest.mark.parametrize("overlaps", [False, True])


def long_engine(**options: Any) -> Engine:
    """An engine without a clock, so that its steps have room for all the tokens that they may."""
    options = {**LONG, "max_num_batched_tokens": 512, "clock": lambda: 0.0, **options}
    engine = stateful_engine(**options)
    engine._scheduler._budget._largest = 512
    return engine


def text_of(one: Generate) -> list[int]:
    return run(plain_engine(**LONG), [(0, one)])[one.request_id].tokens


def cached(answer: Answer) -> int:
    admission = answer.outputs[0].admission
    assert admission is not None
    return admission.cached_tokens


def ask(engine: Engine, prompt: list[int], max_tokens: int = 3, **params: Any) -> int:
    """Run a request alone; its text is checked, and the number of its cached tokens returned."""
    one = request("r", prompt, max_tokens=max_tokens, **params)
    answer = run(engine, [(0, one)])["r"]
    assert answer.tokens == text_of(one)
    assert_empty(engine)
    return cached(answer)


def words(seed: int, count: int) -> list[int]:
    return [(seed * 31 + index * index * 7) % 50 for index in range(count)]


@overlapping
def test_an_equal_or_longer_prompt_starts_at_the_last_border(overlaps: bool) -> None:
    engine = long_engine(overlaps=overlaps)
    prompt = words(1, 250)
    assert ask(engine, prompt) == 0
    assert ask(engine, prompt) == 240
    assert ask(engine, prompt + words(2, 50)) == 240
    assert runner_of(engine).num_restored == 2
    assert engine.stats().cached_tokens == 480


def test_a_prompt_that_ends_at_a_border_is_found_by_an_equal_and_by_a_longer_one() -> None:
    engine = long_engine()
    prompt = words(1, 240)
    assert ask(engine, prompt) == 0
    assert ask(engine, prompt) == 224  # its last token must be run
    assert ask(engine, prompt + words(2, 50)) == 240


@overlapping
def test_each_turn_of_a_chat_starts_where_the_last_answer_ended(overlaps: bool) -> None:
    engine = long_engine(overlaps=overlaps)
    chat = words(1, 70)
    for turn in range(5):
        one = request("r", chat, max_tokens=60)
        answer = run(engine, [(0, one)])["r"]
        assert answer.tokens == text_of(one)
        if turn:
            before = len(chat) - 21  # all but the question, and the answer's last token
            assert cached(answer) == before // 16 * 16
        chat += answer.tokens + words(turn, 20)
    assert runner_of(engine).num_restored == 4
    assert_empty(engine)


@overlapping
def test_prompts_that_share_a_beginning_find_it_from_the_third_on(overlaps: bool) -> None:
    engine = long_engine(overlaps=overlaps)
    shared = words(1, 200)
    found = [ask(engine, shared + words(seed, 90)) for seed in (2, 3, 4, 5)]
    assert found == [0, 0, 192, 192]  # the second knows where they branch, and leaves a snapshot


def test_long_prompts_leave_snapshots_on_their_way() -> None:
    engine = long_engine(max_num_batched_tokens=100)
    prompt = words(1, 900)
    assert ask(engine, prompt, max_tokens=1) == 0
    # From the first step's end on those twice as far are kept, and the last border.
    assert states_of(engine).slots.snapshot_count == 5
    assert ask(engine, prompt[:850], max_tokens=1) == 768
    assert ask(engine, prompt[:500], max_tokens=1) == 384
    assert ask(engine, prompt[:150], max_tokens=1) == 96


def test_short_prompts_take_no_second_step() -> None:
    engine = long_engine()
    run(engine, [(0, request("r", words(1, 31), max_tokens=1))])
    assert engine.stats().steps == 1
    run(engine, [(0, request("r", words(2, 33), max_tokens=1))])
    assert engine.stats().steps == 3


@overlapping
def test_a_long_answer_leaves_one_snapshot(overlaps: bool) -> None:
    engine = long_engine(overlaps=overlaps)
    ask(engine, words(1, 20), max_tokens=400)
    assert runner_of(engine).num_saved > 20
    assert states_of(engine).slots.snapshot_count == 1


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


def test_prompt_logprobs_are_computed_without_snapshots() -> None:
    engine = long_engine()
    prompt = words(1, 100)
    ask(engine, prompt)
    assert ask(engine, prompt, prompt_logprobs=0) == 0
    assert runner_of(engine).num_restored == 0
    assert ask(engine, prompt) == 96


def test_without_prefix_caching_there_are_no_snapshots() -> None:
    engine = long_engine(enable_prefix_caching=False)
    assert [ask(engine, words(1, 100)) for _ in range(2)] == [0, 0]
    assert runner_of(engine).num_saved == 0
    assert engine.stats().steps == 2 * 3  # no chunk ends for a snapshot


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


def admitted(states: StateCache, name: str) -> Sequence:
    sequence = Sequence.of(request(name, words(1, 64)), 1, 0.0)
    found = states.usable_prefix(sequence, [0] * len(sequence.block_hashes(3, 16)))
    assert states.admit(sequence, len(found), len(found))
    sequence.num_computed = 16 * len(found)
    return sequence


def chunk_to(sequence: Sequence, end: int) -> Chunk:
    return Chunk(sequence, sequence.num_computed, end - sequence.num_computed, False)


def test_what_was_saved_to_a_slot_is_no_snapshot_once_another_is_saved_there() -> None:
    states = StateCache(1, 16, makes_snapshots=True)
    slot = states.slots.take()
    assert slot is not None
    states.slots.give_back(slot)
    sequence = admitted(states, "a")
    states.slots.give_back(slot)  # as if the sequence had another one
    (first,) = states.use([chunk_to(sequence, 32)])
    assert first.state is not None
    assert first.state.saved_to == slot
    assert states._take() == slot
    states.slots.give_back(slot)
    (second,) = states.use([chunk_to(sequence, 64)])
    states.commit(first)
    assert states.slots.snapshot_count == 0
    states.commit(second)
    assert states.slots.find(sequence.block_hashes(4, 16)[3]) == slot


def test_a_sequence_that_ends_before_its_first_chunk_leaves_its_snapshot_unpinned() -> None:
    states = StateCache(3, 16, makes_snapshots=True)
    first = admitted(states, "a")
    states.commit(*states.use([chunk_to(first, 48)]))
    states.release(first)
    second = admitted(states, "b")
    assert second.state is not None
    assert second.state.restored_from is not None
    states.release(second)
    assert [states.slots.take() for _ in range(3)].count(None) == 0


def test_what_is_not_used_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = StatefulRunner(num_state_slots=5, vocab_size=50, **LONG)
    monkeypatch.setattr("headrace.workers.build.build_runner", lambda *_: runner)
    config = EngineConfig(
        speculative_config=SpeculativeConfig(method="ngram", num_speculative_tokens=4)
    )
    lines: list[str] = []
    build_engine(tmp_path, config, 1, lines.append)
    assert [line for line in lines if "state" in line] == [
        "cache of recurrent layers' states: 5 slots",
        "speculative_config: not used, a recurrent layer's state cannot take drafts back",
    ]


@overlapping
def test_a_reset_forgets_snapshots_also_those_being_made(overlaps: bool) -> None:
    engine = long_engine(overlaps=overlaps)
    prompt = words(1, 100)
    engine.add(request("r", prompt, max_tokens=40))
    engine.step()  # up to the border; with overlap the snapshot is still being made
    engine.reset_prefix_cache()
    while engine.has_work:
        engine.step()
    assert states_of(engine).slots.snapshot_count == 0
    assert ask(engine, prompt) == 0
    assert ask(engine, prompt) == 96


def test_an_abort_in_flight_leaves_no_snapshot() -> None:
    engine = long_engine()
    engine.add(request("r", words(1, 100)))
    engine.step()
    assert states_of(engine)._saving
    engine.abort("r")
    run(engine, [])
    assert_empty(engine)
    assert states_of(engine).slots.free_count == 16


def test_adapters_and_salts_have_snapshots_of_their_own() -> None:
    engine = long_engine()
    one = request("r", words(1, 100))
    run(engine, [(0, one)])
    salted = run(engine, [(0, replace(one, cache_salt="salt"))])["r"]
    assert cached(salted) == 0


def test_sleep_forgets_snapshots_and_a_new_runner_gets_as_many_slots() -> None:
    engine = long_engine(num_state_slots=5)
    prompt = words(1, 100)
    ask(engine, prompt)
    engine.release()
    engine.drop_weights()
    assert engine.runner.num_state_slots == 5
    sizes = {"vocab_size": 50, **LONG}
    engine.restore_runner(StatefulRunner(num_state_slots=9, **sizes))
    engine.restore_cache()
    assert engine.runner.num_state_slots == 5
    assert ask(engine, prompt) == 0
    assert ask(engine, prompt) == 96


def test_states_take_no_drafts() -> None:
    config = SpeculativeConfig(method="ngram", num_speculative_tokens=4)
    engine = long_engine(speculative_config=config)
    ask(engine, [1, 2, 3] * 20, max_tokens=40)
    assert engine.stats().drafts == 0
    assert runner_of(engine).num_overlapped > 0


def test_chunks_of_models_without_states_name_no_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = FakeRunner(vocab_size=50, **LONG)
    engine = assemble_engine(runner, max_num_seqs=8, max_num_batched_tokens=512)
    states = []
    run_chunk = runner._run_chunk
    monkeypatch.setattr(
        runner, "_run_chunk", lambda chunk: states.append(chunk.state) or run_chunk(chunk)
    )
    run(engine, [(0, request("r", words(1, 100), max_tokens=1))])
    assert states
    assert not any(states)


def test_the_least_recently_used_snapshot_gives_its_slot_up() -> None:
    slots = StateSlots(3)
    for name in (b"a", b"b", b"c"):
        slot = slots.take()
        assert slot is not None
        slots.register(slot, name, None)
    first, second = slots.find(b"a"), slots.find(b"b")
    assert first is not None
    assert second is not None
    slots.pin(first)
    assert slots.take() == second
    assert slots.find(b"b") is None
    slots.unpin(first)
    assert slots.take() is not None
    assert slots.find(b"a") == first  # used when it was pinned
    slots.pin(first)
    assert slots.take() is None
    assert not slots.claim(first)
    slots.clear()
    assert slots.take() is None  # what is pinned stays until it has been read
    slots.unpin(first)
    assert slots.take() == first


def test_only_its_owner_discards_a_snapshot_that_nobody_else_has_used() -> None:
    slots = StateSlots(4)
    for name in (b"mine", b"both", b"read"):
        slot = slots.take()
        assert slot is not None
        slots.register(slot, name, 1)
    again, read = slots.take(), slots.find(b"read")
    assert again is not None
    assert read is not None
    slots.register(again, b"both", 2)
    slots.pin(read)
    slots.unpin(read)
    slots.discard(b"mine", 2)
    assert slots.snapshot_count == 3
    for name in (b"mine", b"both", b"read", b"none"):
        slots.discard(name, 1)
    assert slots.snapshot_count == 2
    assert slots.find(b"mine") is None
    assert slots.free_count == 2
