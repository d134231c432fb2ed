"""What the coordinator counts: what workers cannot say of themselves, such as that they stall.

The numbers lie in files as those of all processes (see workers/process/metrics.py): the counter
outlives a coordinator that dies, the states go with it and come with the next one.
"""

from prometheus_client import Counter, Gauge

from headrace.protocol.config import PoolConfig
from headrace.protocol.state import DRAINING, READY, SLEEPING, STALLED, STARTING, WorkerState

_STATES = (STARTING, READY, DRAINING, STALLED, *SLEEPING)


class PoolMetrics:
    """The workers of a pool, by place: `engine` is the number in the group, for all its starts."""

    def __init__(self, config: PoolConfig) -> None:
        prefix, names = config.metrics_prefix, ("model_name", "engine")
        state = Gauge(
            f"{prefix}worker_state",
            "1 for the state that the worker is in; 0 in all while none is in its place.",
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
        self._shown: dict[str, str] = {}

    def _add(self, place: str) -> None:
        """Count a place. Groups may grow."""
        group, _, number = place.rpartition("-")
        if place in self._states or group not in self._models:
            return
        labels = self._models[group], number
        self._restarts[place] = self._all_restarts.labels(*labels)
        self._states[place] = {each: self._all_states.labels(*labels, each) for each in _STATES}

    def started(self, worker_id: str) -> None:
        """A worker has been ordered; the first start of a place is none again."""
        place, _, start = worker_id.rpartition(".")
        self._add(place)
        if int(start) > 0 and place in self._restarts:
            self._restarts[place].inc()

    def show(self, workers: tuple[WorkerState, ...]) -> None:
        """The pool as it is now."""
        now = {worker.worker_id.rpartition(".")[0]: worker.state for worker in workers}
        if now == self._shown:
            return
        self._shown = now
        for place in now:
            self._add(place)
        for place, states in self._states.items():
            for state, gauge in states.items():
                gauge.set(now.get(place) == state)
