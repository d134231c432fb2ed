"""Sequences with recurrent states: the texts are as without them, and no slot leaks."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.protocol.to_worker import Generate
from headrace.workers.engine.engine import Engine
from tests.workers.driving import request, run
from tests.workers.engine.stateful import assert_empty, plain_engine, runner_of, stateful_engine

engines = st.builds(
    stateful_engine,
    num_state_slots=st.integers(1, 8),
    overlaps=st.booleans(),
    num_blocks=st.integers(12, 40),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(1, 40),
    enable_prefix_caching=st.sampled_from([True, True, True, False]),
)
requests = st.builds(
    lambda prompt, priority, tenant, **params: replace(
        request("?", prompt, **params), priority=priority, tenant=tenant
    ),
    # few different beginnings, so that prefixes coincide
    st.builds(
        lambda token, length, rest: [token] * length + rest,
        st.sampled_from([3, 7]),
        st.integers(1, 26),
        st.lists(st.integers(0, 1), max_size=4),
    ),
    st.integers(-1, 1),
    st.sampled_from(["much", "much", "much", "little"]),
    max_tokens=st.integers(1, 30),
    prompt_logprobs=st.sampled_from([None, None, None, 0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.0]),
    stop_token_ids=st.sampled_from([(), (), tuple(range(0, 50, 9))]),
)
scripts = st.lists(st.tuples(st.integers(0, 20), requests), min_size=1, max_size=10)


def named(script: list[tuple[int, Generate]]) -> list[tuple[int, Generate]]:
    return [(step, replace(one, request_id=str(n))) for n, (step, one) in enumerate(script)]


def alone(one: Generate) -> list[int]:
    return run(plain_engine(), [(0, one)])[one.request_id].tokens


def sleep_and_wake(engine: Engine) -> None:
    engine.release()
    engine.restore_weights()
    engine.restore_cache()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(engines, scripts, scripts)
def test_texts_are_those_without_states(
    engine: Engine, script: list[tuple[int, Generate]], later: list[tuple[int, Generate]]
) -> None:
    for arrivals in (named(script), named(later)):
        answers = run(engine, arrivals)
        for _, one in arrivals:
            assert answers[one.request_id].tokens == alone(one)
        assert_empty(engine)
        sleep_and_wake(engine)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(engines, scripts, st.data())
def test_whatever_ends_and_resets_leaves_no_slot_behind(
    engine: Engine, script: list[tuple[int, Generate]], data: st.DataObject
) -> None:
    arrivals = named(script)
    names = [one.request_id for _, one in arrivals]
    acts: dict[str, Callable[[], None]] = {
        name: lambda name=name: engine.abort(name)  # type: ignore[misc]
        for name in names
    }
    acts["reset"] = engine.reset_prefix_cache
    acts["recompute"] = lambda: engine.reset_prefix_cache(recompute_running=True)
    chosen = data.draw(
        st.lists(
            st.tuples(st.integers(0, 30), st.sampled_from([*acts, "reset", "recompute"])),
            max_size=6,
        )
    )

    def act(step: int) -> None:
        for when, name in chosen:
            if when == step:
                acts[name]()

    answers = run(engine, arrivals, act)
    aborted = {name for _, name in chosen}
    for _, one in arrivals:
        tokens = answers[one.request_id].tokens
        expected = alone(one)
        assert tokens == (expected[: len(tokens)] if one.request_id in aborted else expected)
    assert_empty(engine)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(engines, requests, st.data())
def test_replays_continue_where_the_text_was_cut(
    engine: Engine, one: Generate, data: st.DataObject
) -> None:
    text = alone(one)
    cut = data.draw(st.integers(0, len(text) - 1))
    for _ in range(2):  # the second one from the first one's snapshots
        answer = run(engine, [(0, replace(one, output_token_ids=tuple(text[:cut])))])["?"]
        assert answer.tokens == text[cut:]
    assert_empty(engine)


def test_a_preempted_sequence_continues_from_its_last_snapshot() -> None:
    engine = stateful_engine(max_num_seqs=2)
    arrivals = [
        (0, replace(request("first", range(9), max_tokens=30), tenant="much")),
        (0, replace(request("second", range(9, 19), max_tokens=30), tenant="much")),
        (15, replace(request("third", range(20, 29), max_tokens=5), tenant="little")),
    ]
    answers = run(engine, arrivals)
    assert engine.stats().preemptions == 1
    assert runner_of(engine).num_restored == 1
    assert engine.stats().prompt_tokens == 9 + 10 + 9  # nothing of a prompt is run twice
    for _, one in arrivals:
        assert answers[one.request_id].tokens == alone(one)
    assert_empty(engine)
