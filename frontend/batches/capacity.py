"""Decide how many lines of batches a group may run now, beside its live requests.

Lines have slots of the workers' batches that live requests do not need, and never so many that the
next live requests would have to wait. They take the capacity that is there and do not ask for more:
lines alone neither make an elastic group grow nor wake up more workers than one.
"""

import math
from dataclasses import dataclass

from headrace.protocol.config import GroupConfig
from headrace.protocol.state import READY, SLEEPING, PoolState, WorkerState

# The share of each worker's slots that stays free for the next live requests.
RESERVE = 1 / 8
# A worker whose requests wait although its batch is not full lacks memory for more.
MEMORY_SHORT, NEARLY_FULL = 0.5, 0.9


@dataclass(frozen=True)
class Room:
    """The room for lines in a group. lines: how many may run, of all frontends together.
    is_short: live requests, or lines, wait for the lines that run."""

    lines: int
    is_short: bool = False


def room_for_lines(group: GroupConfig, state: PoolState | None, lines: int, share: float) -> Room:
    """Return the room of a group.

    lines: how many of its requests are lines. share: the most of each worker's slots that lines
    may take.
    """
    workers = [] if state is None else [each for each in state.workers if each.group == group.name]
    ready = [each for each in workers if each.state == READY]
    awake = [each for each in ready if not each.is_paused]
    if ready and not awake:
        return Room(0)
    if not awake:
        return Room(1)  # wakes up or starts a worker, or shows that this is impossible
    slots = group.engine.max_num_seqs
    live = max(sum(each.load.running + each.load.waiting for each in awake) - lines, 0)
    most: float = len(awake) * max(int(slots * share), 1)
    most = min(most, len(awake) * (slots - int(slots * RESERVE)) - live)
    most = min(most, _without_growth(group, live))
    if any(each.state in SLEEPING for each in workers):
        # More running requests than this wake up another worker.
        most = min(most, len(awake) * (slots // 2) - live)
    return Room(max(int(most), 1), any(_is_short(each, slots) for each in awake))


def _without_growth(group: GroupConfig, live: int) -> float:
    """Return how many lines an elastic group takes at the size that its live requests need."""
    limits = group.autoscaling
    if limits is None:
        return math.inf
    needed = max(math.ceil(live / limits.target_requests), limits.min_workers, 1)
    return int(limits.target_requests * needed) - live


def _is_short(worker: WorkerState, slots: int) -> bool:
    load = worker.load
    is_full = load.running >= slots * NEARLY_FULL or load.kv_usage > MEMORY_SHORT
    return load.waiting > 0 and is_full
