"""What the coordinator counts."""

from pathlib import Path

from prometheus_client import REGISTRY

from headrace.coordinator.metrics import PoolMetrics
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import READY, STALLED, WorkerLoad, WorkerState, WorkerStatus


def value(name: str, **labels: str) -> float | None:
    labels |= {"model_name": "m", "engine": "1"}
    return REGISTRY.get_sample_value(f"test_pool_metrics:{name}", labels)


def worker(worker_id: str, state: WorkerStatus) -> WorkerState:
    return WorkerState(worker_id, "chat", 1, state, "", WorkerLoad(0, 0, 0.0, 0, 0.0))


def test_states_and_restarts_are_those_of_the_places() -> None:
    group = GroupConfig(
        name="chat", model="m", model_path=Path("/m"), text_path=Path("/t"), served_names=("m",),
        workers=2,
    )  # fmt: skip
    config = PoolConfig(run_dir=Path("/r"), groups=(group,), metrics_prefix="test_pool_metrics")
    metrics = PoolMetrics(config)
    assert value("worker_restarts_total") == 0
    metrics.started("chat-1.0")
    assert value("worker_restarts_total") == 0
    metrics.show((worker("chat-0.0", STALLED), worker("chat-1.0", READY)))
    assert value("worker_state", state=READY) == 1
    assert value("worker_state", state=STALLED) == 0
    metrics.show((worker("chat-1.0", STALLED),))
    assert value("worker_state", state=READY) == 0
    assert value("worker_state", state=STALLED) == 1
    metrics.show(())
    metrics.started("chat-1.1")
    assert value("worker_state", state=STALLED) == 0
    assert value("worker_restarts_total") == 1
