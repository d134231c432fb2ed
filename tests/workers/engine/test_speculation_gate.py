"""Drafts on machines of known speed: durations are computed, nothing is timed."""

import pytest

from headrace.workers.engine.speculation_gate import SpeculationGate


def drafted_share(
    worth: SpeculationGate, decodes: int, row_s: float, accepted: int, steps: int = 400
) -> float:
    """In how many of some steps there were drafts: of 4 tokens each, so many of them right."""
    drafted = 0
    for _ in range(steps):
        drafts = worth.should_draft(decodes)
        rows = decodes * (5 if drafts else 1)
        tokens = decodes * (1 + accepted if drafts else 1)
        worth.observe(decodes, tokens, drafts, 0.02 + rows * row_s)
        drafted += drafts
    return drafted / steps


@pytest.mark.parametrize(
    ("decodes", "row_s", "accepted", "pays"),
    [
        (1, 0.0005, 1, True),  # rows are cheap compared with the step
        (1, 0.0005, 0, False),
        (32, 0.002, 1, False),  # rows are what a step costs
        (32, 0.002, 4, True),
        (32, 0.0001, 2, True),
    ],
)
def test_what_is_faster_is_run_nearly_always(
    decodes: int, row_s: float, accepted: int, pays: bool
) -> None:
    share = drafted_share(SpeculationGate(), decodes, row_s, accepted)
    assert share > 0.9 if pays else 0 < share < 0.1


def test_it_follows_a_change_of_texts_and_keeps_batch_sizes_apart() -> None:
    worth = SpeculationGate()
    assert drafted_share(worth, 1, 0.001, 0) < 0.1
    drafted_share(worth, 1, 0.001, 3, steps=200)
    assert drafted_share(worth, 1, 0.001, 3) > 0.9
    assert drafted_share(worth, 32, 0.003, 1) < 0.1
    assert drafted_share(worth, 1, 0.001, 3) > 0.9


def test_single_slow_steps_do_not_turn_it() -> None:
    worth = SpeculationGate()
    turned = 0
    for step in range(400):
        drafts = worth.should_draft(1)
        slow = 50 if step % 9 == 0 else 1
        worth.observe(1, 3 if drafts else 1, drafts, slow * (0.025 if drafts else 0.02))
        turned += not drafts
    assert turned < 40
