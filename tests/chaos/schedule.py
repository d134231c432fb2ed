"""What is killed and stopped when: a pure function of a seed, so that a run can be repeated."""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal

FRONTENDS, WORKERS = 2, 3
# A worker or frontend is killed by the coordinator when it has been stopped for so long.
STALL_TIMEOUT_S = 3.0
# Each further death in a slot soon after a start delays its next, and long runs would only see a
# pool that waits: a run that is to have more of them takes more seeds.
MOST_BLOWS = {"worker": 6, "frontend": 6, "coordinator": 6, "launcher": 2, "fork-server": 3}

Role = Literal["worker", "frontend", "coordinator", "launcher", "fork-server"]
# "roll" has the launcher replace all workers and frontends, one at a time.
Kind = Literal["kill", "stop", "continue", "roll"]
# How a run ends: when all has come back; while something restarts; while requests run.
Ending = Literal["calm", "restarting", "loaded"]


@dataclass(frozen=True, order=True)
class Blow:
    """slot: which of the role's processes; whichever start of it lives then, if any does."""

    at_s: float
    kind: Kind
    role: Role
    slot: int


@dataclass(frozen=True)
class Schedule:
    blows: tuple[Blow, ...]
    ending: Ending


def make_schedule(seed: int, seconds: float) -> Schedule:
    """Scenes one after another, closer or further apart, over so many seconds."""
    chance = random.Random(f"schedule {seed}")
    blows: list[Blow] = []
    at_s = chance.uniform(0.3, 1.5)
    while at_s < seconds - 1:
        scene = chance.choice(_SCENES)
        blows += [blow for blow in scene(chance, at_s) if blow.at_s < seconds]
        at_s += chance.uniform(0.2, 4.0)
    blows += _fork_servers_die(random.Random(f"fork servers {seed}"), seconds)
    ending: Ending = chance.choice(["calm", "calm", "restarting", "loaded"])
    return Schedule(tuple(_within_limits(sorted(blows))), ending)


def _fork_servers_die(chance: random.Random, seconds: float) -> list[Blow]:
    """What workers are forked from is killed or frozen, also while it imports. The fake engine has
    none."""
    times = [chance.uniform(0.3, seconds - 1) for _ in range(chance.randint(0, 2))]
    return [Blow(at_s, chance.choice(["kill", "kill", "stop"]), "fork-server", 0) for at_s in times]


def _within_limits(blows: list[Blow]) -> list[Blow]:
    seen: Counter[str] = Counter()
    kept = []
    for blow in blows:
        seen[blow.role] += blow.kind != "continue"
        if blow.kind == "continue" or seen[blow.role] <= MOST_BLOWS[blow.role]:
            kept.append(blow)
    return kept


def _worker_dies(chance: random.Random, at_s: float) -> list[Blow]:
    return [Blow(at_s, "kill", "worker", chance.randrange(WORKERS))]


def _worker_freezes(chance: random.Random, at_s: float) -> list[Blow]:
    return [Blow(at_s, "stop", "worker", chance.randrange(WORKERS))]


def _worker_pauses(chance: random.Random, at_s: float) -> list[Blow]:
    """It continues before it is taken for dead, or just about then."""
    slot, pause_s = chance.randrange(WORKERS), chance.uniform(0.05, 1.1) * STALL_TIMEOUT_S
    return [
        Blow(at_s, "stop", "worker", slot),
        Blow(at_s + pause_s, "continue", "worker", slot),
    ]


def _coordinator_dies(chance: random.Random, at_s: float) -> list[Blow]:
    return [Blow(at_s, "kill", "coordinator", 0)]


def _coordinator_pauses(chance: random.Random, at_s: float) -> list[Blow]:
    pause_s = chance.uniform(0.05, 1.5) * STALL_TIMEOUT_S
    return [
        Blow(at_s, "stop", "coordinator", 0),
        Blow(at_s + pause_s, "continue", "coordinator", 0),
    ]


def _frontend_dies(chance: random.Random, at_s: float) -> list[Blow]:
    return [Blow(at_s, "kill", "frontend", chance.randrange(FRONTENDS))]


def _frontend_pauses(chance: random.Random, at_s: float) -> list[Blow]:
    """Its clients wait, and what workers send to it waits too; or it is taken for dead."""
    slot = chance.randrange(FRONTENDS)
    return [
        Blow(at_s, "stop", "frontend", slot),
        Blow(at_s + chance.uniform(0.05, 4.0), "continue", "frontend", slot),
    ]


def _all_are_replaced(chance: random.Random, at_s: float) -> list[Blow]:
    """In good order, unless somebody dies meanwhile."""
    rolls = [Blow(at_s, "roll", "launcher", 0)]
    if chance.random() < 0.5:
        rolls += _several_die(chance, at_s + chance.uniform(0.0, 4.0))
    return rolls


def _several_die(chance: random.Random, at_s: float) -> list[Blow]:
    """Together, or each at some stage of what the one before has set in motion."""
    blows = []
    for _ in range(chance.randint(2, 4)):
        single = chance.choice([_worker_dies, _worker_freezes, _coordinator_dies, _frontend_dies])
        blows += single(chance, at_s)
        at_s += _moment(chance)
    return blows


def _one_dies_again(chance: random.Random, at_s: float) -> list[Blow]:
    """At any stage of its restart."""
    role: Role = chance.choice(["worker", "frontend", "coordinator"])
    slot = {"worker": chance.randrange(WORKERS), "frontend": chance.randrange(FRONTENDS)}
    again_s = [at_s, at_s + chance.uniform(0.0, 2.5), at_s + chance.uniform(0.0, 5.0)]
    return [Blow(each, "kill", role, slot.get(role, 0)) for each in again_s]


def _all_workers_die(chance: random.Random, at_s: float) -> list[Blow]:
    return [Blow(at_s + _moment(chance), "kill", "worker", slot) for slot in range(WORKERS)]


def _worker_and_coordinator_die(chance: random.Random, at_s: float) -> list[Blow]:
    """An order to start the worker may be given, on its way, or be carried out just then."""
    worker = Blow(at_s, "kill", "worker", chance.randrange(WORKERS))
    return [worker, Blow(at_s + _moment(chance), "kill", "coordinator", 0)]


def _moment(chance: random.Random) -> float:
    """Nothing, or a time between a millisecond and two seconds, each scale as likely."""
    found: float = chance.choice([0.0, 1.0, 1.0, 1.0]) * 0.001 * 2000 ** chance.random()
    return found


_SCENES = (
    _worker_dies,
    _worker_freezes,
    _worker_pauses,
    _coordinator_dies,
    _coordinator_pauses,
    _frontend_dies,
    _frontend_pauses,
    _several_die,
    _several_die,
    _all_are_replaced,
    _one_dies_again,
    _all_workers_die,
    _worker_and_coordinator_die,
)
