"""What the coordinator does of a policy's decisions: lists of events, with Places and Scaling."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from headrace.coordinator.autoscaling.autoscale_metrics import AutoscaleMetrics
from headrace.coordinator.autoscaling.autoscale_policy import BACKOFF_S
from headrace.coordinator.autoscaling.autoscaler import Autoscaler
from headrace.coordinator.replica_slots import ReplicaSlots
from headrace.coordinator.scaling import Scaling
from headrace.coordinator.sleeping import SleepingGroups
from headrace.protocol.autoscaling import Autoscaling
from headrace.protocol.calls import CONFLICT, Scale, Sleep, WakeUp
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import (
    ASLEEP,
    DRAINING,
    READY,
    STARTING,
    WAKING,
    FrontendLoad,
    FrontendState,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from tests.coordinator.test_call_router import pool_call

IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)
PREFIXES = iter(range(1000))


class Pool:
    """One group, "a"; each worker is to have ten requests. Workers are what the test says."""

    def __init__(self, workers: int = 1, **options: Any) -> None:
        chosen = {"min_workers": 0, "max_workers": 8, "target_requests": 10.0}
        chosen |= {"up_window_s": 2.0, "down_window_s": 5.0}
        group = GroupConfig(
            name="a",
            model="m",
            model_path=Path("/m"),
            text_path=Path("/t"),
            served_names=("m",),
            autoscaling=Autoscaling(**(chosen | options)),
            workers=workers,
        )
        self.prefix = f"test_autoscaler_{next(PREFIXES)}"
        config = PoolConfig(run_dir=Path("/r"), groups=(group,), metrics_prefix=self.prefix)
        self.replica_slots = ReplicaSlots(config)
        self.scaling = Scaling(self.replica_slots, True, elastic=["a"])
        self.sleeping = SleepingGroups({"a": 100})
        self.autoscaler = Autoscaler(
            config, self.replica_slots, self.scaling, self.sleeping, AutoscaleMetrics(config)
        )
        self.states: dict[str, WorkerStatus] = {f"a-{number}.0": READY for number in range(workers)}
        self.loads: dict[str, WorkerLoad] = {}
        self.held, self.paused = 0, False
        self.silent: set[str] = set()
        self.now = 0.0
        self.left: list[str] = []
        self.woken: list[str] = []

    @property
    def size(self) -> int:
        return self.replica_slots.target_sizes["a"]

    def workers(self) -> list[WorkerState]:
        return [
            WorkerState(name, "a", 1, state, "", self.loads.get(name, IDLE), self.paused)
            for name, state in self.states.items()
        ]

    def pass_time(self, seconds: int = 1) -> int:
        for _ in range(seconds):
            frontends = [FrontendState("f", 1, FrontendLoad(0, {"a": self.held}))]
            calls = self.autoscaler.tick(self.workers(), frontends, self.silent, self.now)
            self.woken += [worker for worker, call in calls if call.call == WakeUp()]
            messages, _, _ = self.scaling.tick(self.workers(), self.now)
            self.left += [name for name, _ in messages]
            self.now += 1.0
        return self.size

    def run(self, *requests: int) -> None:
        """So many in each worker."""
        for name, count in zip(self.states, requests, strict=False):
            self.loads[name] = replace(IDLE, running=count)

    def order(self, size: int) -> list[Any]:
        call = Scale(size, 10.0, 60.0)
        return list(self.scaling.on_scale(call, pool_call(call, "a"), self.now).answers)

    def metric(self, name: str, **labels: str) -> float | None:
        whole = f"{self.prefix}:autoscale_{name}"
        return REGISTRY.get_sample_value(whole, {"model_name": "m", **labels})


def test_load_makes_it_larger_and_its_end_smaller(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pool = Pool()
    pool.run(35)
    assert pool.pass_time(3) == 4
    assert "scaling group a from 1 to 4 workers: 35 requests, target 10 a worker" in caplog.text
    pool.states |= {"a-1.0": STARTING, "a-2.0": STARTING, "a-3.0": STARTING}
    assert pool.pass_time(5) == 4  # those that start are not ordered twice
    pool.states = dict.fromkeys(pool.states, READY)
    pool.run(12, 0, 0, 0)
    assert pool.pass_time(8) == 2
    assert pool.left[0] == "a-3.0"
    assert set(pool.left) == {"a-2.0", "a-3.0"}
    assert pool.metric("decisions_total", direction="up", reason="requests") == 1
    assert pool.metric("decisions_total", direction="down", reason="idle") == 2
    assert pool.metric("desired_workers") == 2
    assert pool.metric("ready_workers") == 4
    assert (pool.metric("min_workers"), pool.metric("max_workers")) == (0, 8)
    assert pool.metric("load", signal="requests") == 12
    assert pool.metric("target", signal="requests") == 10


def test_more_may_be_wanted_before_the_first_are_there() -> None:
    pool = Pool()
    pool.run(25)
    assert pool.pass_time(3) == 3
    pool.held = 40
    pool.pass_time(3)
    assert pool.size == 7


def test_less_and_more_again_while_some_still_go() -> None:
    pool = Pool(4)
    pool.run(5)
    assert pool.pass_time(9) == 1
    pool.states |= {"a-1.0": DRAINING, "a-2.0": DRAINING, "a-3.0": DRAINING}
    pool.run(5, 30)
    assert pool.pass_time(3) == 1  # what leaving workers still have needs nobody else
    pool.run(45)
    assert pool.pass_time(3) == 5
    (fresh,) = pool.replica_slots.slots_to_fill(["a-0", "a-1", "a-2", "a-3"], pool.now)
    assert fresh.slot == "a-4"


def test_nothing_and_from_nothing() -> None:
    pool = Pool()
    assert pool.pass_time(7) == 0
    pool.states.clear()
    assert pool.pass_time(20) == 0
    pool.autoscaler.on_wake_request("a", pool.now)
    assert pool.pass_time() == 1
    pool.states["a-0.1"] = STARTING
    pool.held = 25
    assert pool.pass_time(3) == 3
    pool.held = 0
    pool.states["a-0.1"] = READY
    assert pool.metric("decisions_total", direction="up", reason="first") == 1


def test_a_frontend_that_holds_a_request_is_enough() -> None:
    """The news that one is wanted may be lost."""
    pool = Pool(0)
    pool.held = 1
    assert pool.pass_time() == 1


def test_silent_workers_stay() -> None:
    pool = Pool(2)
    pool.silent = {"a-0.0", "a-1.0"}
    assert pool.pass_time(20) == 2
    pool.silent.clear()
    assert pool.pass_time(7) == 0


def test_what_an_operator_orders_is_obeyed_and_holds_for_a_window() -> None:
    pool = Pool()
    pool.pass_time(3)
    assert pool.order(4) == []
    assert pool.pass_time(20) == 4  # in hand: workers have not come
    pool.states |= {f"a-{number}.0": READY for number in range(4)}
    assert pool.pass_time(5) == 4
    assert pool.pass_time(3) == 0
    assert len(pool.order(4)) == 0  # goes before what the policy has in hand
    ((_, result),) = pool.order(5)
    assert result.kind == CONFLICT


def test_a_paused_group_stays_as_it_is() -> None:
    pool = Pool(2)
    pool.paused = True
    pool.run(90, 90)
    assert pool.pass_time(10) == 2
    pool.paused = False
    assert pool.pass_time(3) == 8


def test_an_order_that_is_done_at_once_holds_too() -> None:
    pool = Pool(2)
    pool.pass_time(4)
    pool.order(3)
    pool.states["a-2.0"] = READY
    pool.scaling.tick(pool.workers(), pool.now)
    assert pool.pass_time(5) == 3


def test_workers_that_cannot_be_started_are_given_up_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = Pool(2)
    pool.run(40, 40)
    pool.pass_time(3)
    assert pool.size == 8
    pool.states["a-2.0"] = READY
    pool.replica_slots.restarts("a-3").failed("out of memory", pool.now, hopeless=True)
    pool.pass_time(2)
    assert pool.size == 3
    assert pool.metric("failures_total") == 1
    assert "out of memory" in caplog.text
    assert pool.pass_time(int(BACKOFF_S) - 5) == 3
    assert "tried again" in caplog.text
    assert caplog.text.count("stays at") == 1
    assert pool.pass_time(10) == 8
    pool.states |= {f"a-{number}.1": READY for number in range(2, 8)}
    assert pool.pass_time(3) == 8


def test_the_first_worker_that_fails_keeps_its_place() -> None:
    """An empty group would look as if it were so on purpose."""
    pool = Pool(0)
    pool.held = 3
    pool.pass_time()
    pool.replica_slots.restarts("a-0").failed("no memory", pool.now, hopeless=True)
    pool.pass_time(10)
    assert pool.size == 1
    assert pool.replica_slots.problem("a")
    pool.held = 0
    pool.pass_time(7)
    assert pool.size == 0


def test_who_sleeps_is_woken_before_anybody_is_started() -> None:
    pool = Pool(3)
    pool.states |= {"a-1.0": ASLEEP, "a-2.0": ASLEEP}
    pool.run(28)
    assert pool.pass_time() == 3
    assert pool.woken == ["a-1.0", "a-2.0"]
    pool.states |= {"a-1.0": WAKING, "a-2.0": WAKING}
    assert pool.pass_time(10) == 3
    assert pool.woken == ["a-1.0", "a-2.0"]


def test_nobody_goes_while_those_who_stay_sleep() -> None:
    pool = Pool(3)
    pool.states |= {"a-0.0": ASLEEP}
    pool.run(0, 4, 5)
    pool.pass_time(9)
    assert (pool.size, set(pool.woken)) == (2, {"a-0.0"})
    pool.states |= {"a-0.0": WAKING}
    assert pool.pass_time(3) == 2
    pool.states |= {"a-0.0": READY}
    assert pool.pass_time(2) == 1


def test_whom_an_operator_put_to_sleep_sleeps_on() -> None:
    pool = Pool(2)
    pool.sleeping.on_sleep(Sleep(), pool_call(Sleep(), worker="a-1"))
    pool.states["a-1.0"] = ASLEEP
    pool.run(28)
    assert pool.pass_time(3) == 3
    assert pool.woken == []


@pytest.mark.parametrize("group", ["b", ""])
def test_other_groups_are_nobody_s_business(group: str) -> None:
    pool = Pool(0)
    pool.autoscaler.on_wake_request(group, 0.0)
    assert pool.pass_time(3) == 0
