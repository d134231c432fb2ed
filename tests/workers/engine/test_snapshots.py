"""Which snapshots of states are made, and who finds them."""

from dataclasses import replace

import pytest

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
    engine.release()  # which ends the step
    assert_empty(engine)
    assert states_of(engine).slots.free_count == 16
    engine.restore_cache()
    assert ask(engine, words(1, 100)) == 0


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
    engine.restore_runner(StatefulRunner(num_state_slots=9, **LONG))
    engine.restore_cache()
    assert engine.runner.num_state_slots == 5
    assert ask(engine, prompt) == 0
    assert ask(engine, prompt) == 96
