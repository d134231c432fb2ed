"""Metrics of the coordinator: what workers cannot report themselves, such as that they stall.

The values are in files like those of all processes (see workers/process/metrics.py): the counter
survives a coordinator that dies, the states go with it and come back with the next one.
"""

from prometheus_client import Counter, Gauge

from headrace.protocol.common.metrics.metric_space import keep_metrics_on_full_disks
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import (
    DRAINING,
    READY,
    SLEEPING,
    STALLED,
    STARTING,
    WorkerState,
    WorkerStatus,
)

_STATES = (STARTING, READY, DRAINING, STALLED, *SLEEPING)


class PoolMetrics:
    """The workers of a pool by replica slot. Label `engine`: the slot's number in the group."""

    def __init__(self, config: PoolConfig) -> None:
        keep_metrics_on_full_disks()
        prefix, names = config.metrics_prefix, ("model_name", "engine")
        state = Gauge(
            f"{prefix}worker_state",
            "1 for the state that the worker is in; 0 for all while the slot is empty.",
            (*names, "state"),
            multiprocess_mode="livesum",
        )
        restarts = Counter(f"{prefix}worker_restarts", "Workers started again.", names)
        self._all_states, self._all_restarts = state, restarts
        self._models = {group.name: group.served_names[0] for group in config.groups}
        self._restarts: dict[str, Counter] = {}
        self._states: dict[str, dict[str, Gauge]] = {}
        for group in config.groups:
            for number in range(group.workers):
                self._add(f"{group.name}-{number}")
        self._shown: dict[str, WorkerStatus] = {}

    def _add(self, slot: str) -> None:
        """Add a slot. Groups may grow."""
        group, _, number = slot.rpartition("-")
        if slot in self._states or group not in self._models:
            return
        labels = self._models[group], number
        self._restarts[slot] = self._all_restarts.labels(*labels)
        self._states[slot] = {each: self._all_states.labels(*labels, each) for each in _STATES}

    def started(self, worker_id: str) -> None:
        """Count a restart; the first start of a slot is not one."""
        slot, _, start = worker_id.rpartition(".")
        self._add(slot)
        if int(start) > 0 and slot in self._restarts:
            self._restarts[slot].inc()

    def show(self, workers: tuple[WorkerState, ...]) -> None:
        """Set the states of all workers."""
        now = {worker.worker_id.rpartition(".")[0]: worker.state for worker in workers}
        if now == self._shown:
            return
        self._shown = now
        for slot in now:
            self._add(slot)
        for slot, states in self._states.items():
            for state, gauge in states.items():
                gauge.set(now.get(slot) == state)
