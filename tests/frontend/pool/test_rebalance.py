"""Requests that wait in a busy worker go to one that has room."""

import pytest

from headrace.frontend.pool.rebalance import MAX_MIGRATIONS, MIN_WAIT_S
from headrace.protocol.state import ASLEEP, READY, WorkerLoad
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Abort, Generate
from tests.frontend.pool.dispatching import Wire, begin

IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)


def busy(waiting: int, running: int = 2) -> WorkerLoad:
    return WorkerLoad(running, waiting, 0.0, 1, 0.0)


async def crowd(wire: Wire, count: int, adapter: str = "") -> None:
    """So many requests in worker w, the only one."""
    wire.state(w=READY)
    for number in range(count):
        await begin(wire, f"r{number}", adapter=adapter)
        wire.now += 0.001
    wire.now += MIN_WAIT_S


async def test_a_worker_that_comes_gets_half_of_them_and_those_that_came_last() -> None:
    wire = Wire()
    await crowd(wire, 6)
    for number in (0, 1):  # they run
        wire.answer("w", Output(f"r{number}", (1,), 0))
    wire.state({"w": busy(4)}, w=READY, v=READY)
    assert wire.running("w") == ["r0", "r1", "r2"]
    assert wire.running("v") == ["r5+1", "r4+1", "r3+1"]
    aborted = [message.request_ids for worker, message in wire.sent if isinstance(message, Abort)]
    assert aborted == [("r5",), ("r4",), ("r3",)]
    assert wire.replayed == []


async def test_what_moves_is_a_new_request_to_its_worker() -> None:
    wire = Wire()
    await crowd(wire, 3)
    wire.state({"w": busy(1)}, w=READY, v=READY)
    moved = [m for worker, m in wire.sent if worker == "v" and isinstance(m, Generate)]
    assert [(each.request_id, each.is_replay) for each in moved] == [("r2+1", False)]
    wire.answer("w", Output("r2", (7,), 0))  # it was about to begin: that is too late
    wire.answer("v", Output("r2+1", (1,), 0, "stop"))
    assert wire.running("v") == []


async def test_no_more_than_wait() -> None:
    wire = Wire()
    await crowd(wire, 6)
    wire.state({"w": busy(1)}, w=READY, v=READY)
    assert wire.running("v") == ["r5+1"]


@pytest.mark.parametrize("load", [busy(1), busy(0, running=6)])
async def test_nobody_has_room(load: WorkerLoad) -> None:
    """Another that has a queue, too, or none that waits."""
    wire = Wire()
    await crowd(wire, 6)
    other = busy(1) if load.waiting else IDLE
    wire.state({"w": load, "v": other}, w=READY, v=READY)
    assert len(wire.running("w")) == 6


async def test_what_has_just_been_sent_stays() -> None:
    wire = Wire()
    await crowd(wire, 6)
    wire.now -= MIN_WAIT_S / 2
    wire.state({"w": busy(4)}, w=READY, v=READY)
    assert len(wire.running("w")) == 6


async def test_who_sleeps_is_not_sent_anything() -> None:
    wire = Wire()
    await crowd(wire, 6)
    wire.state({"w": busy(4)}, w=READY, v=ASLEEP)
    assert len(wire.running("w")) == 6


async def test_what_a_paused_worker_has_got_just_before_goes_to_others() -> None:
    """All of it; what has begun there waits there. If all are paused, nothing moves."""
    wire = Wire()
    await crowd(wire, 3)
    wire.answer("w", Output("r0", (1,), 0))
    wire.paused = {"w", "v"}
    wire.state({"w": busy(2, running=1)}, w=READY, v=READY)
    assert wire.running("v") == []
    wire.paused = {"w"}
    wire.state({"w": busy(2, running=1)}, w=READY, v=READY)
    assert wire.running("v") == ["r2+1", "r1+1"]
    assert wire.running("w") == ["r0"]


async def test_a_single_request_leaves_a_paused_worker() -> None:
    wire = Wire()
    await crowd(wire, 1)
    wire.paused = {"w"}
    wire.state({"w": busy(1, running=0)}, w=READY, v=READY)
    assert wire.running("v") == ["r0+1"]


async def test_only_to_those_that_have_the_adapter() -> None:
    wire = Wire()
    wire.adapters = {"w": ("1f",), "u": ("1f",)}
    await crowd(wire, 6, adapter="1f")
    wire.state({"w": busy(4)}, w=READY, v=READY)
    assert len(wire.running("w")) == 6
    wire.state({"w": busy(4)}, w=READY, v=READY, u=READY)
    assert (wire.running("v"), len(wire.running("u"))) == ([], 3)


async def test_if_it_cannot_go_there_it_goes_wherever_it_can() -> None:
    wire = Wire()
    await crowd(wire, 4)
    wire.full = {"v"}
    wire.state({"w": busy(2)}, w=READY, v=READY)
    assert len(wire.running("w")) == 4


async def test_nothing_moves_for_ever() -> None:
    """Each time it seems to wait just where it has come to."""
    wire = Wire()
    await crowd(wire, 2)
    for _ in range(MAX_MIGRATIONS + 3):
        wire.now += MIN_WAIT_S
        crowded = max("w", "v", key=lambda name: len(wire.running(name)))
        wire.state({crowded: busy(9)}, w=READY, v=READY)
        await begin(wire, f"more{wire.now}")
        await begin(wire, f"yet more{wire.now}")
    sent = [message.request_id for _, message in wire.sent if isinstance(message, Generate)]
    moves = {name.partition("+")[0]: int(name.partition("+")[2] or 0) for name in sent}
    assert 0 < max(moves.values()) <= MAX_MIGRATIONS
