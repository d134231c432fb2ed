"""Groups that grow and shrink, by lists of events."""

from pathlib import Path

import pytest

from headrace.coordinator.actions import Answer
from headrace.coordinator.replica_slots import ReplicaSlots
from headrace.coordinator.scaling import LATE_S, Message, Scaling
from headrace.protocol.call_results import ScalingState
from headrace.protocol.calls import CONFLICT, FAILED, TIMEOUT, CallTarget, GetScaling, Scale
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import (
    ASLEEP,
    DRAINING,
    READY,
    STARTING,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from headrace.protocol.to_coordinator import PoolCall
from headrace.protocol.to_frontend import PoolResult
from headrace.protocol.to_launcher import KillWorker
from headrace.protocol.to_worker import DrainWorker

IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)
DRAIN_S, START_S = 10.0, 60.0


def group(name: str, workers: int) -> GroupConfig:
    here = Path("/m")
    return GroupConfig(
        name=name, model="m", model_path=here, text_path=here, served_names=(name,), workers=workers
    )


class Pool:
    """Groups a (two workers) and b (one), and who is there as the test says."""

    def __init__(self, starts_workers: bool = True) -> None:
        config = PoolConfig(run_dir=Path("/r"), groups=(group("a", 2), group("b", 1)))
        self.replica_slots = ReplicaSlots(config)
        self.scaling = Scaling(self.replica_slots, starts_workers)
        self.workers: dict[str, WorkerStatus] = {"a-0.0": READY, "a-1.0": READY, "b-0.0": READY}

    def states(self) -> list[WorkerState]:
        return [
            WorkerState(name, name.partition("-")[0], 1, state, "", IDLE)
            for name, state in self.workers.items()
        ]

    def scale(self, size: int, now: float = 0.0, name: str = "c", of: str = "a") -> list[Answer]:
        call = Scale(size, DRAIN_S, START_S)
        message = PoolCall(name, "frontend-0.0", call, CallTarget(of), 1000.0)
        return list(self.scaling.on_scale(call, message, now).answers)

    def tick(self, now: float) -> tuple[list[Message], list[KillWorker], list[Answer]]:
        return self.scaling.tick(self.states(), now)

    def is_scaling(self, of: str = "") -> bool:
        call = GetScaling()
        message = PoolCall("q", "frontend-0.0", call, CallTarget(of), 5.0)
        ((_, result),) = self.scaling.on_get_scaling(call, message, 0.0).answers
        assert isinstance(result.value, ScalingState)
        return result.value.is_scaling


def test_a_group_grows() -> None:
    pool = Pool()
    assert pool.scale(3) == []
    assert [each.slot for each in pool.replica_slots.slots_to_fill(["a-0", "a-1", "b-0"], 0.0)] == [
        "a-2"
    ]
    assert pool.is_scaling()
    assert pool.is_scaling("a")
    assert not pool.is_scaling("b")
    pool.workers["a-2.0"] = STARTING
    assert pool.tick(1.0) == ([], [], [])
    pool.workers["a-2.0"] = READY
    assert pool.tick(2.0) == ([], [], [("frontend-0.0", PoolResult("c", ()))])
    assert not pool.is_scaling()
    assert pool.tick(3.0) == ([], [], [])


def test_a_group_shrinks_by_its_last_workers() -> None:
    pool = Pool()
    pool.scale(1)
    messages, kills, answers = pool.tick(0.0)
    assert (messages, kills, answers) == ([("a-1.0", DrainWorker(DRAIN_S))], [], [])
    pool.workers["a-1.0"] = DRAINING
    assert pool.tick(DRAIN_S) == ([], [], [])
    del pool.workers["a-1.0"]
    assert [name for name, _ in pool.tick(DRAIN_S + 1)[2]] == ["frontend-0.0"]
    assert pool.replica_slots.target_sizes == {"a": 1, "b": 1}


def test_who_has_not_heard_is_told_again_and_who_does_not_go_is_killed() -> None:
    pool = Pool()
    pool.scale(1)
    pool.tick(0.0)
    assert pool.tick(0.5)[0] == []
    assert pool.tick(1.5)[0] == [("a-1.0", DrainWorker(DRAIN_S))]
    pool.workers["a-1.0"] = DRAINING
    assert pool.tick(DRAIN_S + LATE_S - 0.1)[1] == []
    assert pool.tick(DRAIN_S + LATE_S + 0.1)[1] == [KillWorker("a-1.0")]


def test_the_size_that_it_has_is_answered_at_once() -> None:
    pool = Pool()
    pool.scale(2)
    assert len(pool.tick(0.0)[2]) == 1


def test_workers_that_sleep_are_there() -> None:
    pool = Pool()
    pool.workers["a-1.0"] = ASLEEP
    pool.scale(2)
    assert len(pool.tick(0.0)[2]) == 1


def test_a_size_that_fails_is_the_old_one_again_before_anybody_is_told() -> None:
    pool = Pool()
    pool.scale(4)
    pool.workers |= {"a-2.0": READY, "a-3.0": STARTING}
    pool.tick(1.0)
    del pool.workers["a-3.0"]
    pool.replica_slots.restarts("a-3").failed("no memory", 2.0, hopeless=True)
    assert pool.tick(2.0)[2] == []
    assert pool.replica_slots.target_sizes["a"] == 2
    assert pool.tick(2.1)[0] == [("a-2.0", DrainWorker(DRAIN_S))]
    assert pool.is_scaling()
    del pool.workers["a-2.0"]
    ((_, result),) = pool.tick(3.0)[2]
    assert (result.kind, "no memory" in result.error) == (FAILED, True)
    assert not pool.is_scaling()
    pool.scale(4)  # begins anew, without the failure
    assert pool.tick(4.0) == ([], [], [])
    assert pool.replica_slots.target_sizes["a"] == 4


def test_a_failure_that_names_a_file_is_for_the_log() -> None:
    pool = Pool()
    pool.scale(3)
    pool.replica_slots.restarts("a-2").failed("/home/me/model is broken", 1.0, hopeless=True)
    pool.tick(1.0)
    ((_, result),) = pool.tick(2.0)[2]
    assert "/" not in result.error
    assert "log" in result.error


def test_one_failure_is_not_the_end() -> None:
    pool = Pool()
    pool.scale(3)
    pool.replica_slots.restarts("a-2").failed("killed by signal 9", 1.0, hopeless=False)
    pool.tick(1.0)
    assert pool.replica_slots.target_sizes["a"] == 3


def test_workers_that_do_not_come_in_time_are_given_up() -> None:
    pool = Pool()
    pool.scale(3)
    pool.workers["a-2.0"] = STARTING
    pool.tick(START_S - 0.1)
    assert pool.replica_slots.target_sizes["a"] == 3
    pool.tick(START_S + 0.1)
    assert pool.replica_slots.target_sizes["a"] == 2
    pool.tick(START_S + 0.2)
    del pool.workers["a-2.0"]
    ((_, result),) = pool.tick(START_S + 1)[2]
    assert result.kind == TIMEOUT


def test_another_size_meanwhile_is_a_conflict_and_the_same_waits_too() -> None:
    pool = Pool()
    pool.scale(3, name="first")
    ((_, result),) = pool.scale(4, name="other")
    assert result.kind == CONFLICT
    assert pool.scale(3, name="same") == []
    assert pool.scale(2, name="elsewhere", of="b") == []
    pool.workers["a-2.0"] = READY
    answered = [result.call_id for _, result in pool.tick(1.0)[2]]
    assert answered == ["first", "same"]


def test_a_new_coordinator_sends_the_rest_away() -> None:
    """It knows the size, and not who wanted it."""
    pool = Pool()
    pool.replica_slots.resize("a", 1)
    ((worker_id, leave),) = pool.tick(0.0)[0]
    assert (worker_id, leave.drain_timeout_s > 0) == ("a-1.0", True)
    assert pool.is_scaling("a")
    del pool.workers["a-1.0"]
    assert pool.tick(1.0) == ([], [], [])
    assert not pool.is_scaling()


def test_what_systemd_starts_is_not_scaled() -> None:
    pool = Pool(starts_workers=False)
    ((_, result),) = pool.scale(3)
    assert result.kind == FAILED
    assert "systemd" in result.error
    assert pool.replica_slots.target_sizes["a"] == 2


@pytest.mark.parametrize("slot", ["a-0", "a-1"])
def test_wanted_places(slot: str) -> None:
    replica_slots = Pool().replica_slots
    assert replica_slots.is_current(slot)
    assert not replica_slots.is_current("a-2")
    assert not replica_slots.is_current("c-0")
    assert not replica_slots.is_current("a-x")
    replica_slots.resize("a", 0)
    assert not replica_slots.is_current(slot)
    assert replica_slots.is_known(slot)
