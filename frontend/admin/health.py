"""The health of the pool, from the last pool state; no worker is asked.

Reasons of failures are not shown: they may name files of this machine.
"""

from typing import Any, Final, Literal

import msgspec

from headrace.frontend.pool.interface import LiveLoad
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import (
    ASLEEP,
    READY,
    SLEEPING,
    GroupState,
    PoolState,
    WorkerState,
    serving_slots,
)

HealthStatus = Literal["ready", "degraded", "unavailable", "stopping", "paused"]
OK: Final = "ready"
DEGRADED: Final = "degraded"
UNAVAILABLE: Final = "unavailable"
STOPPING: Final = "stopping"
PAUSED: Final = "paused"


def is_ready(config: PoolConfig, state: PoolState | None) -> bool:
    """Return whether any worker can serve, however busy it is.

    Sleeping workers count if requests wake them up, and so does one that requests would start.
    Paused workers count: they accept requests, and a restart, which probes may cause, would not
    resume them.
    """
    if state is None:
        return False
    is_any = any(_serves(config, worker) for worker in state.workers)
    return is_any or any(_starts(group) for group in state.groups)


def health_body(config: PoolConfig, state: PoolState | None, stopping: bool) -> dict[str, Any]:
    """Return the body of /health?verbose: groups, their workers, and the status of the whole."""
    groups = [_group(config, group, state) for group in config.groups]
    status: HealthStatus = DEGRADED
    if stopping:
        status = STOPPING
    elif not is_ready(config, state):
        status = UNAVAILABLE
    elif state is not None and state.workers and all(each.is_paused for each in state.workers):
        status = PAUSED
    elif all(group["status"] == OK for group in groups):
        status = OK
    return {"status": status, "groups": groups, "reload": _reload(state)}


def load_body(
    config: PoolConfig, state: PoolState | None, in_flight: int, live: LiveLoad
) -> dict[str, Any]:
    """Return the body of /load?verbose: the load of the pool, of each group and each worker.

    live: requests in flight as they are now, as in_flight is; the pool state, which is some time
    old, says how many of a worker's requests wait.
    """
    groups = []
    for group in config.groups:
        known = _workers(group, state)
        workers = [_load(worker, live) for worker in known]
        tasks = next((worker.tasks for worker in known if worker.tasks), ())
        total = {key: sum(worker[key] for worker in workers) for key in ("running", "waiting")}
        named = {"name": group.name, "tasks": list(tasks)}
        groups.append({**named, **total, "workers": workers})
    frontends = [
        {
            "name": frontend.frontend_id,
            "in_flight": live.by_frontend.get(frontend.frontend_id, frontend.load.in_flight),
        }
        for frontend in (() if state is None else state.frontends)
    ]
    return {"server_load": in_flight, "groups": groups, "frontends": frontends}


def _reload(state: PoolState | None) -> dict[str, Any] | None:
    """Return the last rolling restart; None before the first. Names that are not known are left
    out."""
    if state is None or state.reload is None:
        return None
    return {key: value for key, value in msgspec.structs.asdict(state.reload).items() if value}


def _serves(config: PoolConfig, worker: WorkerState) -> bool:
    return worker.state == READY or (config.wake_on_demand and worker.state in SLEEPING)


def _starts(group: GroupState) -> bool:
    """Return whether requests start a worker, and nothing is known to prevent it."""
    return group.starts_on_demand and not group.problem


def _group(config: PoolConfig, group: GroupConfig, state: PoolState | None) -> dict[str, Any]:
    workers = _workers(group, state)
    ready = sum(worker.state == READY for worker in workers)
    # Two may serve in one slot during a reload, while another slot lacks its worker.
    serving = len(serving_slots(worker for worker in workers if _serves(config, worker)))
    target_size = _wanted(group, state)
    starts = any(_starts(each) for each in _known(group, state))
    status: HealthStatus = DEGRADED if serving or starts else UNAVAILABLE
    if serving >= target_size and (serving or starts):
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
        "wanted": target_size,
        **_limits(group),
        "kv_cache_dtype": group.engine.kv_cache_dtype,
        "is_scaling": any(each.is_scaling for each in _known(group, state)),
        "is_crash_loop": failing,
        "workers": [_worker(worker) for worker in workers],
    }


def _limits(group: GroupConfig) -> dict[str, int]:
    limits = group.autoscaling
    return {} if limits is None else {"min": limits.min_workers, "max": limits.max_workers}


def _wanted(group: GroupConfig, state: PoolState | None) -> int:
    """Return the target size of a group; the configuration has only its initial size."""
    return next((each.target_size for each in _known(group, state)), group.workers)


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


def _load(worker: WorkerState, live: LiveLoad) -> dict[str, Any]:
    told = worker.load
    total = live.by_worker.get(worker.worker_id, told.running + told.waiting)
    waiting = min(told.waiting, total)
    return {
        "name": worker.worker_id,
        "state": worker.state,
        "running": total - waiting,
        "waiting": waiting,
        "kv_cache_usage": round(worker.load.kv_usage, 4),
    }


def _workers(group: GroupConfig, state: PoolState | None) -> list[WorkerState]:
    return [] if state is None else [each for each in state.workers if each.group == group.name]
