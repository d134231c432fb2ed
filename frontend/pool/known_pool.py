"""What a frontend knows of the pool: its groups and workers, by the newest pool state."""

from dataclasses import dataclass, replace

from headrace.protocol.state import (
    DRAINING,
    READY,
    SLEEPING,
    STALLED,
    STARTING,
    GroupState,
    PoolState,
    WorkerState,
)


@dataclass(frozen=True)
class PoolUpdate:
    """state: as this frontend sees it. drained, failed: workers that are gone since the last one;
    a failed one had not drained."""

    state: PoolState
    drained: frozenset[str]
    failed: frozenset[str]


class KnownPool:
    """The newest pool state, corrected by what this frontend knows better.

    wakes_groups: whether requests wake up and start workers.
    """

    def __init__(self, wakes_groups: bool) -> None:
        self._wakes_groups = wakes_groups
        self._is_known = False  # false at the start: no worker is known yet
        self.workers: dict[str, WorkerState] = {}
        self._groups: dict[str, GroupState] = {}

    def on_state(self, state: PoolState) -> PoolUpdate:
        """Apply a pool state; return what it has changed.

        A restarted coordinator believes that a worker which has not greeted it yet is starting; a
        worker that has been ready stays ready here until it drains, stalls or is gone.
        """
        self._is_known = True
        self._groups = {group.name: group for group in state.groups}
        draining = {name for name, worker in self.workers.items() if worker.state == DRAINING}
        workers = tuple(self._merge(worker) for worker in state.workers)
        lost = set(self.workers) - {worker.worker_id for worker in workers}
        lost |= {worker.worker_id for worker in workers if worker.state == STALLED}
        self.workers = {worker.worker_id: worker for worker in workers}
        seen = replace(state, workers=workers)
        return PoolUpdate(seen, frozenset(lost & draining), frozenset(lost - draining))

    def _merge(self, worker: WorkerState) -> WorkerState:
        known = self.workers.get(worker.worker_id)
        if known is None or known.state != READY or worker.state != STARTING:
            return worker
        if worker.pid not in (0, known.pid):
            return worker
        return replace(worker, state=READY, endpoint=known.endpoint, pid=known.pid)

    # Groups

    def is_scaling(self, group: str) -> bool:
        return group in self._groups and self._groups[group].is_scaling

    def may_serve(self, group: str) -> bool:
        """Return whether a new request can be sent now, or may wait for a worker.

        A worker that has just started gets the group's adapters a moment later: any that is ready
        counts.
        """
        if not self._is_known or self._is_replacing(group) or self.is_asleep(group):
            return True
        workers = self.workers.values()
        return any(each.group == group and each.state == READY for each in workers)

    def is_worker_coming(self, group: str) -> bool:
        """Return whether a worker of the group will come, unless the group is in a crash loop."""
        known = self._groups.get(group)
        if known is not None and known.problem:
            return False
        if self._is_replacing(group) or self.is_asleep(group):
            return True
        return any(each.group == group and each.state == STARTING for each in self.workers.values())

    def is_asleep(self, group: str) -> bool:
        """Return whether no worker of the group is ready, but requests wake up or start one."""
        if not self._wakes_groups:
            return False
        states = {each.state for each in self.workers.values() if each.group == group}
        if READY in states:
            return False
        known = self._groups.get(group)
        starts = known is not None and known.starts_on_demand and not known.problem
        return starts or not states.isdisjoint(SLEEPING)

    def _is_replacing(self, group: str) -> bool:
        return group in self._groups and self._groups[group].is_replacing

    # Workers

    def usable(self, group: str, adapter: str) -> list[WorkerState]:
        """Return the workers that can take a request; paused ones only if all are paused."""
        ready = [
            worker
            for worker in self.workers.values()
            if worker.group == group and worker.state == READY
            if not adapter or adapter in worker.adapters
        ]
        return [worker for worker in ready if not worker.is_paused] or ready
