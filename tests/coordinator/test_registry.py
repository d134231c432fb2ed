"""The rules of the pool, by lists of events and without a clock."""

import itertools
from pathlib import Path

import pytest

from headrace.coordinator.registry import IDLE, KILL_AGAIN_S, SILENT_S, START_SILENCE_S, Registry
from headrace.protocol.autoscaling import Autoscaling
from headrace.protocol.common.process import EX_CONFIG
from headrace.protocol.common.restart_backoff import STEADY_S
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import (
    DRAINING,
    READY,
    STALLED,
    STARTING,
    FrontendLoad,
    WorkerState,
    WorkerStatus,
)
from headrace.protocol.to_coordinator import (
    ChildExited,
    FrontendHeartbeat,
    FrontendHello,
    LauncherHello,
    WorkerDraining,
    WorkerFailed,
    WorkerHello,
)
from headrace.protocol.to_launcher import KillWorker, StartWorker
from tests.coordinator.registry_events import (
    beat,
    hello,
    make_registry,
    start_all,
    states,
    worker_ids,
)


def test_starts_nothing_before_the_launcher_is_known() -> None:
    registry = make_registry()
    assert registry.tick(0.0) == []
    registry.on_launcher(LauncherHello(1, (), (), ()), 0.0)
    assert registry.tick(0.0) == [
        StartWorker("chat-0.0", "chat", 2),
        StartWorker("chat-1.0", "chat", 2),
    ]
    assert registry.tick(0.1) == []


def test_worker_goes_from_starting_to_ready_to_draining() -> None:
    registry = make_registry(workers=1)
    registry.on_launcher(LauncherHello(1, (), (), ()), 0.0)
    registry.tick(0.0)
    assert states(registry) == {"chat-0.0": STARTING}
    registry.on_worker_hello(hello("chat-0.0", ready=False), 0.0)
    assert states(registry) == {"chat-0.0": STARTING}
    registry.on_worker_hello(hello("chat-0.0"), 1.0)
    assert states(registry) == {"chat-0.0": READY}
    registry.on_worker_draining(WorkerDraining("chat-0.0"), 2.0)
    registry.on_worker_hello(hello("chat-0.0"), 2.0)
    assert states(registry) == {"chat-0.0": DRAINING}


def test_dead_worker_is_replaced_at_once_in_its_place_under_a_new_id() -> None:
    registry = make_registry()
    start_all(registry)
    registry.on_exit(ChildExited("chat-1.0", "worker", -9), 5.0)
    assert states(registry) == {"chat-0.0": READY}
    assert registry.tick(5.0) == [StartWorker("chat-1.1", "chat", 2)]


def test_crash_loop_backs_off_and_is_reported() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    starts, now, orders = [], 0.0, []
    worker_id = "chat-0.0"
    for _ in range(5):
        registry.on_worker_failed(WorkerFailed(worker_id, "the disk is on fire"), now)
        registry.on_exit(ChildExited(worker_id, "worker", 1), now)
        while not (orders := registry.tick(now)):
            now += 0.25
        starts.append(now)
        (worker_id,) = worker_ids(orders)
    gaps = [later - sooner for sooner, later in itertools.pairwise(starts)]
    assert gaps == [0.5, 1.0, 2.0, 4.0]
    problem = registry.state().groups[0].problem
    assert "5 in a row" in problem
    assert "the disk is on fire" in problem
    registry.on_worker_hello(hello(worker_id), now)
    assert registry.state().groups[0].problem == ""


def fail(registry: Registry, worker_id: str, now: float) -> None:
    registry.on_exit(ChildExited(worker_id, "worker", -9), now)


def test_workers_that_die_together_are_no_crash_loop() -> None:
    registry = make_registry(workers=3)
    for worker_id in start_all(registry):
        fail(registry, worker_id, 0.1)
    assert worker_ids(registry.tick(0.1)) == ["chat-0.1", "chat-1.1", "chat-2.1"]
    assert registry.state().groups[0].problem == ""


def test_crash_loop_is_of_one_place_and_holds_up_no_other() -> None:
    registry = make_registry(workers=2)
    start_all(registry)
    for start, now in enumerate((0.0, 1.0, 2.0)):
        fail(registry, f"chat-0.{start}", now)
        registry.tick(now + 0.5)
    assert "chat-0: 3 in a row" in registry.state().groups[0].problem
    fail(registry, "chat-1.0", 2.6)
    assert registry.tick(2.6) == [StartWorker("chat-1.1", "chat", 2)]
    registry.on_worker_hello(hello("chat-1.1"), 2.7)
    assert "chat-0" in registry.state().groups[0].problem


def test_worker_that_has_served_is_replaced_at_once_each_time() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    now = 0.0
    for start in range(6):
        now += STEADY_S
        fail(registry, f"chat-0.{start}", now)
        assert registry.tick(now) == [StartWorker(f"chat-0.{start + 1}", "chat", 1)]
        registry.on_worker_hello(hello(f"chat-0.{start + 1}"), now)
    assert registry.state().groups[0].problem == ""


def test_failures_far_apart_are_no_crash_loop() -> None:
    registry = make_registry(workers=1)
    (worker_id,) = start_all(registry)
    now = 0.0
    for _ in range(6):
        now += 100.0
        registry.on_worker_heartbeat(beat(worker_id), now)
        registry.on_exit(ChildExited(worker_id, "worker", -11), now)
        (worker_id,) = worker_ids(registry.tick(now))
        registry.on_worker_hello(hello(worker_id), now)
    assert registry.state().groups[0].problem == ""


def test_hopeless_failure_waits_long() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    registry.on_exit(ChildExited("chat-0.0", "worker", EX_CONFIG), 0.0)
    assert registry.tick(29.0) == []
    assert registry.tick(30.0) == [StartWorker("chat-0.1", "chat", 1)]


@pytest.mark.parametrize("silent", [True, False])
def test_stalled_worker_is_taken_out_and_killed_once(silent: bool) -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    if silent:
        registry.on_worker_heartbeat(beat("chat-0.0", running=1), 0.0)
    else:
        registry.on_worker_heartbeat(beat("chat-0.0", step_age_s=10.1, running=1), 10.1)
    assert registry.tick(10.1) == [KillWorker("chat-0.0")]
    assert states(registry) == {"chat-0.0": STALLED}
    assert registry.tick(10.2) == []
    assert registry.tick(10.2 + KILL_AGAIN_S) == [KillWorker("chat-0.0")]


def test_worker_that_loads_for_long_is_left_alone() -> None:
    registry = make_registry(workers=1)
    registry.on_launcher(LauncherHello(1, (), (), ()), 0.0)
    registry.tick(0.0)
    registry.on_worker_hello(hello("chat-0.0", ready=False), 0.0)
    assert registry.tick(START_SILENCE_S - 1) == []
    assert registry.tick(START_SILENCE_S + 1) == [KillWorker("chat-0.0")]


def test_worker_that_beats_and_never_is_ready_is_killed_in_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An engine that hangs while it is loaded: the other thread goes on beating."""
    registry = make_registry(workers=1)
    registry.on_launcher(LauncherHello(1, (), (), ()), 0.0)
    registry.tick(0.0)
    for second in range(1, 301):
        registry.on_worker_hello(hello("chat-0.0", ready=False), float(second))
        registry.on_worker_heartbeat(beat("chat-0.0"), float(second))
        assert registry.tick(float(second)) == []
    registry.on_worker_heartbeat(beat("chat-0.0"), 300.5)
    assert registry.tick(300.5) == [KillWorker("chat-0.0")]
    assert states(registry) == {"chat-0.0": STALLED}
    registry.on_worker_hello(hello("chat-0.0", ready=False), 300.6)
    assert states(registry) == {"chat-0.0": STALLED}
    assert registry.tick(300.6) == []
    registry.on_exit(ChildExited("chat-0.0", "worker", -9), 301.0)
    assert "ended (was not ready within 300 s)" in caplog.text
    assert registry.tick(301.0) == [StartWorker("chat-0.1", "chat", 1)]


def test_worker_that_was_ready_in_time_may_live_on() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    registry.on_worker_heartbeat(beat("chat-0.0"), 1000.0)
    assert registry.tick(1000.0) == []


def test_greeting_that_comes_after_the_end_revives_nobody() -> None:
    registry = make_registry(workers=1)
    registry.on_launcher(LauncherHello(1, (), (), ()), 0.0)
    registry.tick(0.0)
    registry.on_exit(ChildExited("chat-0.0", "worker", -9), 0.1)
    registry.on_worker_hello(hello("chat-0.0"), 0.2)
    assert states(registry) == {}
    assert registry.tick(0.2) == [StartWorker("chat-0.1", "chat", 1)]


@pytest.mark.parametrize("greets_first", [True, False])
def test_new_coordinator_gives_no_id_twice(greets_first: bool) -> None:
    """Frontends know workers by their ids: a second life under the first one's would be taken
    for it."""
    registry = make_registry(workers=2)
    if greets_first:
        registry.on_worker_hello(hello("chat-0.4"), 0.0)
    registry.on_launcher(LauncherHello(1, (), (), ("chat-0.4", "chat-1.2")), 0.1)
    assert registry.tick(0.1) == [
        StartWorker("chat-0.5", "chat", 2),
        StartWorker("chat-1.3", "chat", 2),
    ]


def test_busy_worker_that_makes_steps_is_not_stalled() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    for second in range(100):
        registry.on_worker_heartbeat(beat("chat-0.0", step_age_s=9.0, running=64), float(second))
        assert registry.tick(float(second)) == []


def test_interpreter_that_never_speaks_is_killed_in_the_end() -> None:
    registry = make_registry(workers=1)
    registry.on_launcher(LauncherHello(1, (), (), ()), 0.0)
    registry.tick(0.0)
    assert registry.tick(START_SILENCE_S - 1) == []
    assert registry.tick(START_SILENCE_S + 1) == [KillWorker("chat-0.0")]


def test_new_coordinator_learns_who_runs_and_starts_only_what_is_missing() -> None:
    registry = make_registry()
    registry.on_launcher(LauncherHello(1, ("chat-0.7",), ("frontend-0.0",), ()), 0.0)
    assert registry.tick(0.0) == [StartWorker("chat-1.0", "chat", 2)]
    assert not registry.knows("chat-0.7")
    registry.on_worker_hello(hello("chat-0.7"), 0.1)
    assert registry.knows("chat-0.7")
    registry.on_exit(ChildExited("chat-0.7", "worker", -9), 0.2)
    assert StartWorker("chat-0.8", "chat", 2) in registry.tick(0.2)


def frozen_before_the_coordinator_died(state: WorkerStatus) -> Registry:
    """A new coordinator that never hears of chat-0.0, which its launcher knew as `state`."""
    registry = make_registry(workers=1)
    worker = WorkerState("chat-0.0", "chat", 100, state, "ipc://chat-0.0", IDLE)
    registry.on_launcher(LauncherHello(1, ("chat-0.0",), (), ("chat-0.0",), (worker,)), 0.0)
    return registry


def test_worker_that_is_frozen_when_the_coordinator_dies_is_replaced_as_any() -> None:
    registry = frozen_before_the_coordinator_died(READY)
    assert states(registry) == {"chat-0.0": READY}
    assert not registry.knows("chat-0.0")
    assert registry.tick(9.9) == []
    assert registry.tick(10.1) == [KillWorker("chat-0.0")]


def test_worker_that_was_to_be_killed_is_killed_by_the_next_coordinator() -> None:
    assert frozen_before_the_coordinator_died(STALLED).tick(0.0) == [KillWorker("chat-0.0")]


def test_worker_that_has_become_ready_meanwhile_is_asked_and_believed() -> None:
    registry = frozen_before_the_coordinator_died(STARTING)
    assert not registry.knows("chat-0.0")
    registry.on_worker_hello(hello("chat-0.0"), 1.0)
    assert states(registry) == {"chat-0.0": READY}


def test_launcher_greeting_drops_whom_it_does_not_have() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    registry.on_frontend_hello(FrontendHello(1, "frontend-0.0", 7), 0.0)
    registry.on_launcher(LauncherHello(1, (), (), ()), 1.0)
    assert states(registry) == {}
    assert registry.state().frontends == ()


def changes(registry: Registry) -> tuple[bool, bool]:
    """Whether there are some, and whether they are urgent."""
    return registry.dirty, registry.urgent


def test_state_counts_versions_and_notes_what_changed() -> None:
    registry = make_registry()
    first = registry.state()
    assert changes(registry) == (False, False)
    registry.on_frontend_hello(FrontendHello(1, "frontend-0.0", 7), 0.0)
    assert changes(registry) == (True, True)
    registry.state()
    registry.on_frontend_heartbeat(FrontendHeartbeat("frontend-0.0", FrontendLoad(3)), 1.0)
    assert changes(registry) == (True, False)
    state = registry.state()
    assert state.frontends[0].load.in_flight == 3
    assert state.version == first.version + 2


def test_worker_of_an_unknown_group_is_ignored() -> None:
    registry = make_registry()
    registry.on_worker_hello(WorkerHello(1, "x-0.0", "x", 1, "ipc://x", READY), 0.0)
    assert states(registry) == {}


def test_under_systemd_nothing_is_ordered_but_kills() -> None:
    config = make_registry().config
    registry = Registry(config, epoch="e", starts_workers=False)
    registry.on_launcher(LauncherHello(1, ("chat-0.4",), (), ("chat-0.4",)), 0.0)
    registry.on_worker_hello(hello("chat-0.4"), 0.0)
    assert registry.tick(1.0) == []  # chat-1 is systemd's to start
    assert registry.tick(11.0) == [KillWorker("chat-0.4")]
    registry.on_exit(ChildExited("chat-0.4", "worker", None), 11.1)
    assert registry.tick(11.2) == []
    registry.on_launcher(LauncherHello(1, ("chat-0.5",), (), ("chat-0.5",)), 12.0)
    registry.on_worker_hello(hello("chat-0.5"), 12.0)
    assert states(registry) == {"chat-0.5": READY}


def test_who_has_not_said_how_busy_it_is_is_silent() -> None:
    """A worker of a coordinator before this one is not idle because it has said nothing yet."""
    registry = make_registry()
    start_all(registry)
    assert registry.silent(0.0) == {"chat-0.0", "chat-1.0"}
    registry.on_worker_heartbeat(beat("chat-0.0"), 1.0)
    registry.on_worker_heartbeat(beat("chat-1.0"), 2.5)
    assert registry.silent(2.5) == set()
    assert registry.silent(1.1 + SILENT_S) == {"chat-0.0"}


@pytest.mark.parametrize(
    ("least", "wakes", "starts_workers", "expected"),
    [
        (0, True, True, True),
        (1, True, True, False),
        (0, False, True, False),
        (0, True, False, False),
        (None, True, True, False),
    ],
)
def test_groups_that_may_be_empty_say_that_requests_start_workers(
    least: int | None, wakes: bool, starts_workers: bool, expected: bool
) -> None:
    group = make_registry().config.groups[0]
    if least is not None:
        limits = Autoscaling(min_workers=least, max_workers=4, target_requests=1.0)
        group = group.model_copy(update={"autoscaling": limits})
    config = PoolConfig(run_dir=Path("/r"), groups=(group,), wake_on_demand=wakes)
    registry = Registry(config, epoch="e", starts_workers=starts_workers)
    (told,) = registry.state().groups
    assert told.starts_on_demand == expected
