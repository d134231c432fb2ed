"""The step budget on machines of known speed: durations are computed, nothing is timed."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.workers.engine.step_budget import (
    FIRST_TOKENS,
    GROWTH,
    LONGEST_PROMPT_STEP_S,
    MIN_ALONE,
    MIN_BESIDE_DECODES,
    PROBE_EVERY,
    SLOWDOWN,
    StepBudget,
)
from tests.workers.engine.simulated_machine import Machine

machines = st.tuples(
    st.floats(1e-4, 3.0), st.floats(0.0, 0.05), st.floats(1e-6, 0.2), st.sampled_from([8, 64, 512])
)


@settings(max_examples=100, deadline=None)
@given(
    machines,
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 900), st.integers(1, 40)),
        min_size=1,
        max_size=10,
    ),
    st.randoms(use_true_random=False),
)
def test_decodes_run_in_every_step_and_prompts_progress_in_every_second(
    machine: tuple[float, float, float, int],
    arrivals: list[tuple[int, int, int]],
    rng: random.Random,
) -> None:
    """However fast the machine is, and however noisy."""
    fixed_s, decode_s, prompt_s, max_tokens = machine
    run = Machine(
        fixed_s, decode_s, prompt_s, max_tokens, noise=lambda: rng.choice([0.5, 1, 1, 1, 30])
    )
    waiting = sorted(arrivals)
    idle = step = 0
    while waiting or run.sequences:
        while waiting and waiting[0][0] <= step:
            _, length, tokens = waiting.pop(0)
            run.add(str(len(waiting)), length, tokens)
        expected = [each for each in run.sequences if each.blocks and each.num_pending == 1]
        unrun = [each for each in run.sequences if each.num_pending > 1]
        decodes, prompts, _ = run.step()
        assert set(expected) <= set(decodes)
        idle = idle + 1 if unrun and not prompts and len(decodes) == len(expected) else 0
        assert idle < 2
        step += 1
        assert step < 20_000


def steady(machine: Machine, streams: int) -> None:
    """So many decodes, all of whose prompts have been run, and some steps of them alone."""
    for number in range(streams):
        machine.add(str(number), 20, 10_000)
    alone = 0
    while alone < 5:
        decodes, _, _ = machine.step()
        alone += len(decodes) == streams


@pytest.mark.parametrize("prompt_s", [1e-5, 2e-4, 7e-4, 3e-3, 2e-2])
@pytest.mark.parametrize("streams", [1, 8, 50])
def test_a_step_with_prompts_takes_a_few_times_a_step_without(
    prompt_s: float, streams: int
) -> None:
    machine = Machine(0.02, 0.001, prompt_s)
    steady(machine, streams)
    machine.add("long", 4000, 1)
    alone = machine.seconds(streams, 0)
    counts = []
    while len(machine.sequences) > streams:
        decodes, prompts, seconds = machine.step()
        assert len(decodes) == streams
        assert seconds <= SLOWDOWN * alone * 1.05 or prompts <= MIN_BESIDE_DECODES
        counts.append(prompts)
    wanted = (SLOWDOWN - 1) * alone / prompt_s
    typical = sorted(counts)[len(counts) // 2]
    assert typical >= min(0.9 * wanted, 512 - streams)


def test_a_step_of_prompts_alone_stays_far_from_the_stall_timeout() -> None:
    """A model of which 512 tokens would take 20 seconds; the first tries are small."""
    machine = Machine(0.5, 0.001, 0.04)
    machine.add("first", 3000, 20)
    longest = 0.0
    while machine.sequences:
        _, _, seconds = machine.step()
        longest = max(longest, seconds)
    assert longest <= machine.seconds(0, FIRST_TOKENS)
    machine.add("second", 3000, 1)
    _, prompts, seconds = machine.step()
    assert prompts >= MIN_ALONE
    assert seconds <= machine.seconds(0, MIN_ALONE)


def test_a_fast_machine_fills_its_steps_after_a_few() -> None:
    machine = Machine(0.02, 0.0, 1e-5, max_tokens=8192)
    machine.add("long", 30_000, 1)
    counts = []
    while machine.sequences:
        counts.append(machine.step()[1])
    assert counts[:4] == [FIRST_TOKENS * GROWTH**power for power in range(4)]
    assert counts[4] == 8192


def test_a_prompt_step_is_bounded_by_seconds() -> None:
    budget = StepBudget(8192)
    for tokens in (64, 256, 1024):
        budget.observe(1, 0, 0.05)
        budget.observe(0, tokens, 0.05 + tokens * 0.001)
    assert budget.prefill_budget(0) == pytest.approx(
        (LONGEST_PROMPT_STEP_S - 0.05) / 0.001, rel=0.1
    )


def test_slow_steps_now_and_then_change_nothing() -> None:
    calm, noisy = StepBudget(512), StepBudget(512)
    rng = random.Random(3)
    for step in range(200):
        tokens = 0 if step % 2 else 64
        seconds = 0.025 + tokens * 0.0007
        calm.observe(8, tokens, seconds)
        noisy.observe(8, tokens, seconds * (20 if rng.random() < 0.15 else 1))
        if step > 20:
            assert noisy.prefill_budget(8) == pytest.approx(calm.prefill_budget(8), rel=0.01)


def test_the_budget_follows_a_machine_that_becomes_slower_and_faster() -> None:
    budget = StepBudget(512)
    for factor in (1, 2, 0.5):
        for _ in range(12):
            budget.observe(8, 0, 0.025)
            budget.observe(8, 60, 0.025 + 60 * 0.0007 * factor)
        assert budget.prefill_budget(8) == pytest.approx(
            (SLOWDOWN - 1) * 0.025 / (0.0007 * factor), abs=1
        )


def test_a_base_measured_while_the_machine_was_busy_is_corrected() -> None:
    """Steps with prompts that are faster than the base tell that it is too high; meanwhile no huge
    step is tried."""
    budget = StepBudget(512)
    budget.observe(0, 512, 0.36)
    for _ in range(5):
        budget.observe(8, 0, 0.3)
    for _ in range(4 * (PROBE_EVERY + 1)):
        tokens = budget.prefill_budget(8)
        budget.observe(8, tokens, 0.02 + tokens * 0.0007)
    assert budget.prefill_budget(8) <= SLOWDOWN * 0.02 / 0.0007
    budget = StepBudget(512)
    for _ in range(5):
        budget.observe(8, 0, 0.3)
    for _ in range(8):
        budget.observe(8, 16, 0.04)
    assert budget.prefill_budget(8) <= 64


def test_decodes_are_measured_alone_where_they_have_not_been_for_long() -> None:
    budget = StepBudget(512)
    budget.observe(0, 64, 0.06)
    assert budget.prefill_budget(8) == 0  # never measured
    budget.observe(8, 0, 0.025)
    for _ in range(PROBE_EVERY):
        assert budget.prefill_budget(8) > 0
        budget.observe(8, 64, 0.07)
    assert budget.prefill_budget(8) == 0
    budget.observe(8, 0, 0.025)
    assert budget.prefill_budget(8) > 0
    assert budget.prefill_budget(100) > 0  # unknown, but the step before had no prompts


def test_steps_too_short_to_matter_are_not_cut() -> None:
    budget = StepBudget(512)
    budget.observe(0, 512, 0.002)
    budget.observe(8, 0, 1e-5)
    budget.observe(8, 500, 0.002)
    assert budget.prefill_budget(8) == 512
