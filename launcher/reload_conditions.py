"""Questions of a rolling restart to the pool state; None is a state that is not known."""

from headrace.launcher.children import slot_of
from headrace.protocol.state import SERVING, PoolState, serving_slots


def group_of(worker_id: str) -> str:
    return slot_of(worker_id).rpartition("-")[0]


def serves(state: PoolState | None, worker_id: str) -> bool:
    return state is not None and any(
        each.worker_id == worker_id and each.state in SERVING for each in state.workers
    )


def is_wanted(state: PoolState | None, slot: str) -> bool:
    """Return whether the pool has a slot: its group may have become smaller."""
    group, _, number = slot.rpartition("-")
    return state is None or any(
        each.name == group and int(number) < each.target_size for each in state.groups
    )


def has_successor(state: PoolState | None, worker_id: str) -> bool:
    """Return whether another worker serves in a worker's slot."""
    return state is not None and any(
        worker.state in SERVING
        and worker.worker_id != worker_id
        and slot_of(worker.worker_id) == slot_of(worker_id)
        for worker in state.workers
    )


def has_problem(state: PoolState | None, group: str) -> bool:
    return state is not None and any(each.problem for each in state.groups if each.name == group)


def is_whole(state: PoolState | None, group: str) -> bool:
    """Return whether all workers of a group are ready or asleep."""
    if state is None:
        return False
    serving = len(serving_slots(each for each in state.workers if each.group == group))
    return all(serving >= each.target_size for each in state.groups if each.name == group)
