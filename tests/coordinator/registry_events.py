"""A registry for tests, and what processes tell it."""

from collections.abc import Iterable
from pathlib import Path

from headrace.coordinator.registry import Registry
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import READY, STARTING, WorkerLoad, WorkerStatus
from headrace.protocol.to_coordinator import (
    LauncherHello,
    WorkerHeartbeat,
    WorkerHello,
    WorkerTotals,
)
from headrace.protocol.to_launcher import KillFrontend, KillWorker, StartWorker


def worker_ids(orders: Iterable[StartWorker | KillWorker | KillFrontend]) -> list[str]:
    return [order.worker_id for order in orders if not isinstance(order, KillFrontend)]


def make_registry(workers: int = 2) -> Registry:
    group = GroupConfig(
        name="chat",
        model="m",
        model_path=Path("/m"),
        text_path=Path("/t"),
        served_names=("m",),
        workers=workers,
    )
    config = PoolConfig(
        run_dir=Path("/r"), groups=(group,), stall_timeout_s=10, start_timeout_s=300
    )
    return Registry(config, epoch="e")


def hello(worker_id: str, ready: bool = True) -> WorkerHello:
    state: WorkerStatus = READY if ready else STARTING
    return WorkerHello(1, worker_id, "chat", 100, f"ipc://{worker_id}", state)


def beat(worker_id: str, step_age_s: float = 0.0, running: int = 0) -> WorkerHeartbeat:
    load = WorkerLoad(running, 0, 0.0, 5, step_age_s)
    return WorkerHeartbeat(worker_id, load, WorkerTotals(0, 0, 0, 0))


def states(registry: Registry) -> dict[str, str]:
    return {worker.worker_id: worker.state for worker in registry.state().workers}


def start_all(registry: Registry, now: float = 0.0) -> list[str]:
    """Greet as the launcher, and let all ordered workers become ready."""
    registry.on_launcher(LauncherHello(1, (), (), ()), now)
    orders = registry.tick(now)
    for order in orders:
        assert isinstance(order, StartWorker)
        registry.on_worker_hello(hello(order.worker_id), now)
    return worker_ids(orders)
