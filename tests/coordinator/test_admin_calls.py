"""Admin calls through the coordinator's parts, without sockets, and when the state is published."""

from pathlib import Path

import pytest

from headrace.coordinator.adapter_manager import AdapterManager
from headrace.coordinator.admin_calls import AdminCalls
from headrace.coordinator.autoscaling.autoscale_metrics import AutoscaleMetrics
from headrace.coordinator.autoscaling.autoscaler import Autoscaler
from headrace.coordinator.call_router import CallRouter
from headrace.coordinator.held_calls import NO_WORKER
from headrace.coordinator.registry import Registry
from headrace.coordinator.scaling import Scaling
from headrace.coordinator.sleeping import SleepingGroups
from headrace.coordinator.state_publisher import (
    PUBLISH_AT_LEAST_EVERY_S,
    TICK_S,
    StatePublisher,
)
from headrace.coordinator.worker_calls import WorkerCalls
from headrace.protocol import PROTOCOL_VERSION
from headrace.protocol.autoscaling import Autoscaling
from headrace.protocol.call_results import Pong
from headrace.protocol.calls import AnyCall, CallTarget, LoadAdapter, Ping
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import READY, PoolState
from headrace.protocol.to_coordinator import CallResult, LauncherHello, PoolCall, WorkerHello
from headrace.protocol.to_frontend import FrontendCall, PoolResult
from headrace.protocol.to_worker import WorkerCall

PREFIXES = iter(range(1000))


class Desk:
    """The parts that calls go through, and what these have sent. The group may have no worker."""

    def __init__(self, run_dir: Path) -> None:
        group = GroupConfig(
            name="a",
            model="m",
            model_path=Path("/m"),
            text_path=Path("/t"),
            served_names=("m",),
            autoscaling=Autoscaling(min_workers=0, max_workers=2, target_requests=10.0),
        )
        config = PoolConfig(
            run_dir=run_dir, groups=(group,), metrics_prefix=f"test_admin_calls_{next(PREFIXES)}"
        )
        self.published: list[PoolState] = []
        self.to_workers: list[tuple[str, WorkerCall]] = []
        self.to_frontends: list[tuple[str, PoolResult | FrontendCall]] = []
        self.registry = Registry(config, epoch="e")
        slots, sleeping = self.registry.replica_slots, SleepingGroups({"a": 100})
        scaling, adapters = Scaling(slots, True, elastic=["a"]), AdapterManager(config)
        metrics = AutoscaleMetrics(config)
        self.publisher = StatePublisher(
            config, self.registry, scaling, adapters, Notifier(), self.published.append
        )
        router = CallRouter()
        self.calls = AdminCalls(
            router,
            self.registry,
            adapters,
            Autoscaler(config, slots, scaling, sleeping, metrics),
            self.publisher,
            WorkerCalls(self._send_to_worker),
            lambda frontend_id, message: self.to_frontends.append((frontend_id, message)),
        )
        self.calls.add_handlers(router)

    def _send_to_worker(self, worker_id: str, call: WorkerCall) -> bool:
        self.to_workers.append((worker_id, call))
        return True

    def report(self, *workers: str) -> None:
        """The launcher reports these workers, and they are ready."""
        self.registry.on_launcher(LauncherHello(PROTOCOL_VERSION, workers, (), workers), 0.0)
        self.calls.on_launcher(0.0)
        for worker_id in workers:
            hello = WorkerHello(PROTOCOL_VERSION, worker_id, "a", 1, "ipc://w", READY)
            self.registry.on_worker_hello(hello, 0.0)

    def call(self, call: AnyCall, call_id: str = "c", now: float = 0.0) -> None:
        self.calls.on_call(PoolCall(call_id, "f", call, CallTarget("a"), 5.0), now)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_calls_that_come_before_the_launcher_has_reported_are_routed_then(desk: Desk) -> None:
    desk.call(Ping())
    assert (desk.to_workers, desk.to_frontends) == ([], [])
    desk.report("a-0.0")
    assert desk.to_workers == [("a-0.0", WorkerCall("c", Ping()))]
    desk.calls.on_result(CallResult("c", "a-0.0", Pong()), 1.0)
    ((frontend_id, result),) = desk.to_frontends
    assert frontend_id == "f"
    assert isinstance(result, PoolResult)
    assert [each.value for each in result.answers] == [Pong()]


def test_a_worker_that_has_ended_answers_no_more(desk: Desk) -> None:
    desk.report("a-0.0")
    desk.call(Ping())
    desk.calls.on_exit("a-0.0", 1.0, has_drained=False)
    ((_, result),) = desk.to_frontends
    assert isinstance(result, PoolResult)
    assert [bool(each.error) for each in result.answers] == [True]


def test_an_adapter_waits_for_the_first_worker_and_not_for_ever(desk: Desk) -> None:
    desk.report()
    desk.call(LoadAdapter("l", "1f", "r"))
    desk.calls.tick(4.9)
    assert desk.to_frontends == []
    desk.calls.tick(5.0)
    ((_, result),) = desk.to_frontends
    assert isinstance(result, PoolResult)
    assert result.error == NO_WORKER
    desk.calls.tick(6.0)
    assert len(desk.to_frontends) == 1


def test_nothing_is_published_before_the_launcher_has_reported(desk: Desk) -> None:
    desk.publisher.publish(0.0)
    desk.publisher.publish_if_due(10.0)
    assert desk.published == []
    desk.report("a-0.0")
    desk.publisher.publish_if_due(10.0)
    (state,) = desk.published
    assert [each.worker_id for each in state.workers] == ["a-0.0"]


def test_without_changes_the_state_is_published_now_and_then(desk: Desk) -> None:
    desk.report("a-0.0")
    desk.publisher.publish_if_due(10.0)
    desk.publisher.publish_if_due(10.0 + 2 * TICK_S)
    assert len(desk.published) == 1
    desk.publisher.publish_if_due(10.1 + PUBLISH_AT_LEAST_EVERY_S)
    assert len(desk.published) == 2
