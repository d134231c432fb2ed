"""A tenant with an occasional request and one with a hundred: capacity, and steps of its own."""

import random
import statistics
from typing import Any

import pytest

from headrace.workers.engine.fairness import owners_to_defer
from headrace.workers.engine.step_budget import SLOWDOWN
from headrace.workers.engine.waiting_queue import OwnerCounters
from tests.workers.engine.simulated_machine import Machine

CAPACITY = 16
PROMPT, OUTPUT = 60, 60


def machine(**options: Any) -> Machine:
    """As fast as a small model on two cores."""
    return Machine(0.012, 0.0006, 0.00055, capacity=CAPACITY, **options)


def flood(
    simulated: Machine, rng: random.Random, tenant: str = "much", in_flight: int = 100
) -> None:
    """Let the tenant have so many requests again."""
    has = sum(each.request.tenant == tenant for each in simulated.sequences)
    for _ in range(in_flight - has):
        simulated.add("", rng.randint(20, 100), rng.randint(20, 100), tenant)


def times_to_first_token(rng: random.Random, floods: int) -> list[float]:
    """Those of a tenant with an occasional request, among so many tenants that send floods."""
    simulated, now_s, due_s = machine(), 0.0, 0.0
    for _ in range(50):  # it learns how fast it is
        flood(simulated, rng, "first", in_flight=5)
        simulated.step()
    asked = None
    found: list[float] = []
    while len(found) < 100:
        for number in range(floods):
            flood(simulated, rng, f"much{number}")
        if asked is None and due_s <= now_s:
            asked = simulated.add("", rng.randint(40, 80), 5, "little")
        elif asked is None and not simulated.sequences:
            now_s = due_s
            continue
        _, _, seconds = simulated.step()
        now_s += seconds
        if asked is not None and asked.num_outputs:
            found.append(now_s - due_s)
            asked, due_s = None, now_s + rng.expovariate(2.0)
    return found


@pytest.mark.parametrize("floods", [1, 2, 3])
def test_a_flood_at_most_doubles_anothers_time_to_first_token(floods: int) -> None:
    alone = times_to_first_token(random.Random(1), 0)
    together = times_to_first_token(random.Random(1), floods)
    assert statistics.median(together) <= 2 * statistics.median(alone)
    assert statistics.quantiles(together, n=100)[98] <= 2 * statistics.quantiles(alone, n=100)[98]


def test_deferred_tenants_run_in_every_second_step() -> None:
    """However many others come: a step that leaves them out is short, and the next has them."""
    simulated, rng = machine(), random.Random(2)
    base_s = simulated.seconds(CAPACITY, 0)
    last_s: dict[int, float] = {}
    now_s, longest_s, left_out = 0.0, 0.0, 0
    for step in range(2000):
        flood(simulated, rng)
        if step > 200:  # by then the machine's speed is known
            simulated.add("", rng.randint(20, 100), 3, f"little{step}")
        decoding = [each for each in simulated.sequences if each.blocks and each.num_outputs]
        decodes, _, seconds = simulated.step()
        now_s += seconds
        left_out += len(decodes) < len(decoding)
        for each in decodes:
            if each.request.tenant == "much" and each.blocks and id(each) in last_s:
                longest_s = max(longest_s, now_s - last_s[id(each)])
        last_s = {id(each): now_s for each in decodes} | {
            key: at_s
            for key, at_s in last_s.items()
            if any(id(each) == key and each.blocks for each in simulated.sequences)
            and key not in {id(each) for each in decodes}
        }
    assert left_out > 50
    assert longest_s <= 2 * SLOWDOWN * base_s * 1.05


def test_tenants_that_share_evenly_are_never_deferred() -> None:
    simulated, rng = machine(), random.Random(3)
    for step in range(1000):
        for number in range(CAPACITY + 4):
            flood(simulated, rng, f"tenant{number}", in_flight=1)
        expected = [each for each in simulated.sequences if each.blocks and each.num_pending == 1]
        decodes, _, _ = simulated.step()
        assert set(expected) <= set(decodes), step


@pytest.mark.parametrize(
    ("counts", "deferred"),
    [
        ({"a": 1}, ""),
        ({"a": 2}, ""),
        ({"a": 3}, "a"),
        ({"a": 15}, "a"),
        ({"a": 12, "new": 3}, "a"),
        ({"a": 11, "new": 4}, ""),
        ({"a": 7, "b": 8}, "ab"),
        ({"a": 13, "b": 2}, "a"),
        ({"new": 15}, ""),
        ({}, ""),
    ],
)
def test_which_tenants_are_deferred(counts: dict[str, int], deferred: str) -> None:
    simulated = machine()
    running = [
        simulated.add("", 1, 1, tenant) for tenant, count in counts.items() for _ in range(count)
    ]
    newcomer = simulated.add("", 1, 1, "new")
    served = OwnerCounters()
    expected = {(tenant, "") for tenant in deferred}
    assert owners_to_defer(newcomer, running, served) == expected
    assert owners_to_defer(newcomer, [*running, newcomer], served) == expected
    served.charge(("new", ""), 1)
    assert owners_to_defer(newcomer, running, served) == set()


def test_users_of_one_tenant_are_deferred_for_one_another_alone() -> None:
    simulated = machine()
    owners = [("a", "much")] * 6 + [("b", "much")] * 9
    running = [simulated.add("", 1, 1, tenant, user) for tenant, user in owners]
    newcomer = simulated.add("", 1, 1, "a", "new")
    assert owners_to_defer(newcomer, running, OwnerCounters()) == {("a", "much")}
    fresh = simulated.add("", 1, 1, "c", "new")
    assert owners_to_defer(fresh, running, OwnerCounters()) == {("a", "much"), ("b", "much")}


def test_prompts_do_not_wait_for_one_that_has_no_room() -> None:
    """A newcomer whose prompt does not fit the cache yet holds up nobody else's."""
    simulated = Machine(0.012, 0.0006, 0.00055, capacity=CAPACITY, blocks=110)
    for tenant in ("other", "much", "much", "much", "much", "much"):
        simulated.add("", 16, 300, tenant)
    while not all(each.num_outputs for each in simulated.sequences):
        simulated.step()
    long = simulated.add("", 1000, 5, "much")
    simulated.step()
    assert long.num_pending > 1
    newcomer = simulated.add("", 800, 5, "little")
    while not long.num_outputs:
        assert len(simulated.sequences) == 8, "it waited for another's text to end"
        simulated.step()
    assert not newcomer.blocks
    while not newcomer.num_outputs:
        simulated.step()
