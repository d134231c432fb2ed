"""Workers that take the place of others which leave, end or are renewed by a reload."""

from headrace.coordinator.registry import SUCCESSOR_S, Registry
from headrace.protocol.common.process import EX_CONFIG
from headrace.protocol.state import READY, ReloadPhase, ReloadState
from headrace.protocol.to_coordinator import ChildExited, LauncherHello, WorkerDraining
from headrace.protocol.to_launcher import KillWorker, StartWorker
from tests.coordinator.registry_events import hello, make_registry, start_all, states, worker_ids


def is_replacing(registry: Registry) -> bool:
    (group,) = registry.state().groups
    return group.is_replacing


def test_group_is_said_to_wait_for_the_successor_of_one_that_leaves_in_good_order() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    assert not is_replacing(registry)
    registry.on_worker_draining(WorkerDraining("chat-0.0"), 1.0)
    assert is_replacing(registry)
    registry.on_exit(ChildExited("chat-0.0", "worker", 0), 2.0)
    assert registry.tick(2.0) == [StartWorker("chat-0.1", "chat", 1)]
    assert is_replacing(registry)
    registry.tick(2.0 + SUCCESSOR_S + 1)  # it loads
    assert is_replacing(registry)
    registry.on_worker_hello(hello("chat-0.1"), 20.0)
    assert not is_replacing(registry)


def test_successor_that_fails_is_waited_for_no_more() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    registry.on_worker_draining(WorkerDraining("chat-0.0"), 1.0)
    registry.on_exit(ChildExited("chat-0.0", "worker", 0), 2.0)
    registry.tick(2.0)
    registry.on_exit(ChildExited("chat-0.1", "worker", 1), 3.0)
    assert not is_replacing(registry)


def test_successor_that_nobody_starts_is_not_waited_for_for_long() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    registry.starts_workers = False
    registry.on_worker_draining(WorkerDraining("chat-0.0"), 1.0)
    registry.on_exit(ChildExited("chat-0.0", "worker", None), 2.0)
    registry.tick(2.0)
    assert is_replacing(registry)
    registry.tick(2.0 + SUCCESSOR_S + 1)
    assert not is_replacing(registry)


def reloading(registry: Registry, phase: ReloadPhase = "starting") -> None:
    registry.on_reload(ReloadState(1, phase, "chat-0", "chat-0.0"))


def test_reload_starts_one_successor_beside_a_worker_that_serves() -> None:
    registry = make_registry()
    start_all(registry)
    reloading(registry)
    assert registry.tick(1.0) == [StartWorker("chat-0.1", "chat", 2)]
    reloading(registry)  # it is repeated
    assert registry.tick(2.0) == []
    registry.on_worker_hello(hello("chat-0.1"), 3.0)
    assert registry.tick(3.0) == []
    assert states(registry) == {"chat-0.0": READY, "chat-1.0": READY, "chat-0.1": READY}
    registry.on_worker_draining(WorkerDraining("chat-0.0"), 4.0)
    registry.on_exit(ChildExited("chat-0.0", "worker", 0), 5.0)
    assert registry.tick(5.0) == []
    assert states(registry) == {"chat-1.0": READY, "chat-0.1": READY}
    assert not is_replacing(registry)
    assert registry.state().reload == ReloadState(1, "starting", "chat-0", "chat-0.0")


def test_failed_successor_is_no_crash_loop_and_is_started_again_a_moment_later() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    for start in range(1, 5):
        now = 2.0 * start
        reloading(registry)
        assert worker_ids(registry.tick(now)) == [f"chat-0.{start}"]
        registry.on_exit(ChildExited(f"chat-0.{start}", "worker", EX_CONFIG), now)
        assert registry.tick(now + 0.5) == []
    (group,) = registry.state().groups
    assert group.problem == ""
    assert states(registry) == {"chat-0.0": READY}
    registry.on_exit(ChildExited("chat-0.0", "worker", -9), 9.5)
    assert worker_ids(registry.tick(9.5)) == ["chat-0.5"]


def test_successor_takes_the_place_of_a_worker_that_dies_meanwhile() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    reloading(registry)
    assert worker_ids(registry.tick(1.0)) == ["chat-0.1"]
    registry.on_exit(ChildExited("chat-0.0", "worker", -9), 2.0)
    assert registry.tick(2.0) == []
    registry.on_worker_hello(hello("chat-0.1"), 3.0)
    assert registry.tick(3.0) == []
    assert states(registry) == {"chat-0.1": READY}


def test_after_a_failed_reload_nothing_stays_beside_the_old_worker() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    reloading(registry)
    assert worker_ids(registry.tick(1.0)) == ["chat-0.1"]
    reloading(registry, "failed")
    assert registry.tick(2.0) == [KillWorker("chat-0.1")]
    registry.on_exit(ChildExited("chat-0.1", "worker", -9), 2.1)
    assert registry.tick(2.2) == []
    assert states(registry) == {"chat-0.0": READY}


def test_another_coordinator_starts_no_second_successor() -> None:
    registry = make_registry(workers=1)
    ids = ("chat-0.0", "chat-0.1")
    registry.on_launcher(LauncherHello(1, ids, (), ("chat-0.1",)), 0.0)
    registry.on_worker_hello(hello("chat-0.0"), 0.0)
    reloading(registry)
    assert registry.tick(1.0) == []
    registry.on_exit(ChildExited("chat-0.1", "worker", 1), 2.0)
    assert worker_ids(registry.tick(4.0)) == ["chat-0.2"]


def test_no_successor_in_a_slot_that_the_group_has_no_more() -> None:
    registry = make_registry(workers=1)
    start_all(registry)
    registry.replica_slots.resize("chat", 0)
    reloading(registry)
    assert registry.tick(1.0) == []
