"""What the pool is able to do, from the coordinator's last news. Asks no worker anything.

It says nothing of why a worker failed: such reasons may name files of this machine.
"""

from typing import Any

from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import ASLEEP, READY, SLEEPING, GroupState, PoolState, WorkerState

OK, DEGRADED, UNAVAILABLE, STOPPING = "ready", "degraded", "unavailable", "stopping"
PAUSED = "paused"


def is_ready(config: PoolConfig, state: PoolState | None) -> bool:
    """Whether any worker of any group can make progress, however busy it is; or sleeps, if requests
    wake it; or would be started for them; or is paused: it takes requests, and a restart, which is
    what probes may lead to, would not have it go on."""
    if state is None:
        return False
    is_any = any(_serves(config, worker) for worker in state.workers)
    return is_any or any(_starts(group) for group in state.groups)


def health_body(config: PoolConfig, state: PoolState | None, stopping: bool) -> dict[str, Any]:
    """Groups and their workers, and what follows from these for the whole."""
    groups = [_group(config, group, state) for group in config.groups]
    status = DEGRADED
    if stopping:
        status = STOPPING
    elif not is_ready(config, state):
        status = UNAVAILABLE
    elif state is not None and state.workers and all(each.is_paused for each in state.workers):
        status = PAUSED
    elif all(group["status"] == OK for group in groups):
        status = OK
    return {"status": status, "groups": groups}


def load_body(config: PoolConfig, state: PoolState | None, in_flight: int) -> dict[str, Any]:
    """The pool's load, then each group's and each worker's."""
    groups = []
    for group in config.groups:
        workers = [_load(worker) for worker in _workers(group, state)]
        total = {key: sum(worker[key] for worker in workers) for key in ("running", "waiting")}
        groups.append({"name": group.name, **total, "workers": workers})
    frontends = [
        {"name": frontend.frontend_id, "in_flight": frontend.load.in_flight}
        for frontend in (() if state is None else state.frontends)
    ]
    return {"server_load": in_flight, "groups": groups, "frontends": frontends}


def _serves(config: PoolConfig, worker: WorkerState) -> bool:
    return worker.state == READY or (config.wake_on_demand and worker.state in SLEEPING)


def _starts(group: GroupState) -> bool:
    """Whether requests have a worker started, as far as is known one that will come."""
    return group.starts_on_demand and not group.problem


def _group(config: PoolConfig, group: GroupConfig, state: PoolState | None) -> dict[str, Any]:
    workers = _workers(group, state)
    ready = sum(worker.state == READY for worker in workers)
    serving = sum(_serves(config, worker) for worker in workers)
    wanted = _wanted(group, state)
    starts = any(_starts(each) for each in _known(group, state))
    status = DEGRADED if serving or starts else UNAVAILABLE
    if serving >= wanted and (serving or starts):
        status = OK
    failing = state is not None and any(
        each.name == group.name and each.problem for each in state.groups
    )
    return {
        "name": group.name,
        "models": list(group.served_names),
        "status": status,
        "ready": ready,
        "paused": sum(worker.is_paused for worker in workers),
        "asleep": sum(worker.state == ASLEEP for worker in workers),
        "wanted": wanted,
        **_limits(group),
        "is_scaling": any(each.is_scaling for each in _known(group, state)),
        "is_crash_loop": failing,
        "workers": [_worker(worker) for worker in workers],
    }


def _limits(group: GroupConfig) -> dict[str, int]:
    limits = group.autoscaling
    return {} if limits is None else {"min": limits.min_workers, "max": limits.max_workers}


def _wanted(group: GroupConfig, state: PoolState | None) -> int:
    """Groups are scaled: the configuration has only how it began."""
    return next((each.wanted for each in _known(group, state)), group.workers)


def _known(group: GroupConfig, state: PoolState | None) -> list[GroupState]:
    return [] if state is None else [each for each in state.groups if each.name == group.name]


def _worker(worker: WorkerState) -> dict[str, Any]:
    load = worker.load
    return {
        "name": worker.worker_id,
        "state": worker.state,
        "is_paused": worker.is_paused,
        "running": load.running,
        "waiting": load.waiting,
        "steps": load.steps,
        "last_step_age_s": round(load.step_age_s, 3),
        "restarts": int(worker.worker_id.rpartition(".")[2]),
    }


def _load(worker: WorkerState) -> dict[str, Any]:
    return {
        "name": worker.worker_id,
        "state": worker.state,
        "running": worker.load.running,
        "waiting": worker.load.waiting,
        "kv_cache_usage": round(worker.load.kv_usage, 4),
    }


def _workers(group: GroupConfig, state: PoolState | None) -> list[WorkerState]:
    return [] if state is None else [each for each in state.workers if each.group == group.name]
