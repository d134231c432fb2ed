"""For how long a frontend remembers that its workers were full, and what makes it forget."""

from headrace.frontend.pool.fullness import PROBE_S, REJECTION_VALID_S, Fullness
from headrace.protocol.state import (
    DRAINING,
    READY,
    STARTING,
    GroupState,
    PoolState,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from headrace.protocol.to_frontend import QUEUE_FULL, Rejected
from tests.frontend.fake_pool import pool_state

IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)


class Remembered:
    """A memory with a clock of its own. workers: their states by id, whose first letter is their
    group."""

    def __init__(self, groups: str = "a", **workers: WorkerStatus) -> None:
        self.now = 100.0
        self.fullness = Fullness(lambda: self.now)
        self.news(groups, **workers)

    def news(self, groups: str = "a", **workers: WorkerStatus) -> None:
        state = PoolState("e", 1, tuple(GroupState(name, 1, "") for name in groups), (), ())
        told = [WorkerState(name, name[0], 1, kind, "", IDLE) for name, kind in workers.items()]
        self.fullness.on_state(state, told)

    def refuse(self, worker_id: str, reason: str = QUEUE_FULL, retry_after_s: float = 3.0) -> None:
        message = Rejected(worker_id, 0, "r", reason, True, retry_after_s)
        self.fullness.on_rejected(worker_id, message)

    def is_busy(self) -> bool:
        return self.fullness.why_busy() is not None


def test_a_pool_is_full_for_a_moment_once_all_workers_have_refused() -> None:
    memory = Remembered(a0=READY, a1=READY, a2=STARTING)
    memory.refuse("a0", retry_after_s=7.0)
    assert not memory.is_busy()
    memory.refuse("a1", retry_after_s=4.0)
    busy = memory.fullness.why_busy()
    assert busy is not None
    assert busy.retry_after_s == 4.0
    memory.now += REJECTION_VALID_S
    assert not memory.is_busy()


def test_as_many_may_come_as_have_left_a_worker() -> None:
    memory = Remembered(a0=READY, a1=READY)
    memory.fullness.note_free_capacity("a1")  # nothing is known of it that this could change
    memory.refuse("a0")
    memory.refuse("a1")
    assert memory.is_busy()
    memory.fullness.note_free_capacity("a1")
    memory.fullness.note_free_capacity("a0")
    assert [memory.is_busy() for _ in range(3)] == [False, False, True]


def test_a_refusal_says_that_what_has_left_before_it_makes_no_room() -> None:
    memory = Remembered(a0=READY)
    memory.refuse("a0")
    memory.fullness.note_free_capacity("a0")
    memory.refuse("a0")
    assert memory.is_busy()


def test_one_tries_again_while_the_others_wait_for_what_becomes_of_it() -> None:
    memory = Remembered(a0=READY)
    memory.refuse("a0")
    memory.now += REJECTION_VALID_S
    assert [memory.is_busy() for _ in range(3)] == [False, True, True]
    memory.refuse("a0")
    memory.now += REJECTION_VALID_S - 0.001
    assert memory.is_busy()


def test_who_tries_and_is_not_refused_has_found_room_for_all() -> None:
    memory = Remembered(a0=READY)
    memory.refuse("a0")
    memory.now += REJECTION_VALID_S
    assert [memory.is_busy() for _ in range(2)] == [False, True]
    memory.now += PROBE_S
    assert not any(memory.is_busy() for _ in range(3))


def test_only_what_would_refuse_any_request_is_remembered() -> None:
    memory = Remembered(a0=READY)
    memory.refuse("a0", "the queue holds too many tokens")
    assert not memory.is_busy()
    memory.refuse("a0", "the worker is stopping", retry_after_s=0.0)
    assert not memory.is_busy()


def test_a_worker_that_has_come_may_have_room_and_one_that_has_gone_does_not_count() -> None:
    memory = Remembered(a0=READY)
    memory.refuse("a0")
    memory.news(a0=READY, a1=READY)
    assert not memory.is_busy()
    memory.news(a0=READY, a1=DRAINING)
    assert memory.is_busy()
    memory.news(a0=DRAINING)
    memory.refuse("a0")
    assert not memory.is_busy()


def test_all_groups_must_be_full() -> None:
    memory = Remembered("ab", a0=READY, b0=READY)
    memory.refuse("a0")
    assert not memory.is_busy()
    memory.refuse("b0")
    assert memory.is_busy()


def test_a_group_without_workers_has_no_full_ones() -> None:
    """What is asked of it is unavailable, and not for want of room."""
    memory = Remembered("ab", a0=READY)
    memory.refuse("a0")
    assert not memory.is_busy()


def test_nothing_is_full_before_the_first_news() -> None:
    assert Fullness(lambda: 0.0).why_busy() is None
    fullness = Fullness(lambda: 0.0)
    fullness.on_state(pool_state(), ())
    assert fullness.why_busy() is None
