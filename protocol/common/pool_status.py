"""Describe the pool in one line, for `systemctl status`."""

from headrace.protocol.config import PoolConfig
from headrace.protocol.state import READY, SLEEPING, PoolState, serving_slots


def pool_status(state: PoolState, config: PoolConfig) -> str:
    """Describe how much of the pool runs, its load and its problems, in one line."""
    ready = len(serving_slots(each for each in state.workers if each.state == READY))
    in_flight = sum(frontend.load.in_flight for frontend in state.frontends)
    problems = [f"{group.name}: {group.problem}" for group in state.groups if group.problem]
    asleep = sum(worker.state in SLEEPING for worker in state.workers)
    parts = (
        f"{ready} of {sum(group.target_size for group in state.groups)} workers ready",
        *([f"{asleep} asleep"] if asleep else []),
        f"{len(state.frontends)} of {config.frontends} frontends",
        f"{in_flight} requests in flight",
        *problems,
    )
    return ", ".join(parts)


def is_complete(state: PoolState, config: PoolConfig) -> bool:
    """Return whether the pool has all its workers, ready or asleep, and all its frontends."""
    return has_all_workers(state) and len(state.frontends) >= config.frontends


def has_all_workers(state: PoolState) -> bool:
    """Return whether all workers of the target sizes are ready or asleep."""
    return len(serving_slots(state.workers)) >= sum(group.target_size for group in state.groups)
