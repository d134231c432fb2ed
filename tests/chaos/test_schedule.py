"""Schedules are what their seeds make them."""

from collections import Counter

from .schedule import FRONTENDS, MOST_BLOWS, WORKERS, make_schedule

SEEDS = range(200)


def test_a_seed_repeats_its_schedule() -> None:
    assert make_schedule(7, 30) == make_schedule(7, 30)
    assert len({make_schedule(seed, 30).blows for seed in SEEDS}) == len(SEEDS)


def test_blows_are_in_order_and_in_time_and_within_limits() -> None:
    slots = {"worker": WORKERS, "frontend": FRONTENDS, "coordinator": 1, "launcher": 1}
    slots["fork-server"] = 1
    for seed in SEEDS:
        blows = make_schedule(seed, 30).blows
        assert list(blows) == sorted(blows)
        assert all(0 < blow.at_s < 30 and blow.slot < slots[blow.role] for blow in blows)
        struck: Counter[str] = Counter(blow.role for blow in blows if blow.kind != "continue")
        assert all(struck[role] <= most for role, most in MOST_BLOWS.items())


def test_everything_happens_to_everyone() -> None:
    happens: Counter[object] = Counter()
    for seed in SEEDS:
        schedule = make_schedule(seed, 30)
        happens.update((blow.kind, blow.role, blow.slot) for blow in schedule.blows)
        happens[schedule.ending] += 1
    kinds = [("kill", "worker", slot) for slot in range(WORKERS)]
    kinds += [("stop", "worker", 0), ("continue", "worker", 0), ("kill", "coordinator", 0)]
    kinds += [("stop", "coordinator", 0), ("kill", "fork-server", 0), ("stop", "fork-server", 0)]
    kinds += [("stop", "frontend", 1), ("continue", "frontend", 1), ("roll", "launcher", 0)]
    kinds += [("kill", "frontend", slot) for slot in range(FRONTENDS)]
    assert all(happens[kind] > 20 for kind in kinds)
    assert all(happens[ending] > 20 for ending in ("calm", "restarting", "loaded"))
