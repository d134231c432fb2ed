"""How many lines may run beside live requests."""

import asyncio
import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from headrace.frontend.batches import line_gate
from headrace.frontend.batches.capacity import Room, room_for_lines
from headrace.frontend.batches.line_gate import FIRST_LINES, LineGate
from headrace.protocol.autoscaling import Autoscaling
from headrace.protocol.config import EngineConfig, GroupConfig
from headrace.protocol.state import (
    ASLEEP,
    READY,
    STARTING,
    GroupState,
    PoolState,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)


def group(autoscaling: Autoscaling | None = None, workers: int = 1) -> GroupConfig:
    return GroupConfig(
        name="main",
        model="m",
        model_path=Path("/m"),
        text_path=Path("/m"),
        served_names=("m",),
        engine=EngineConfig(max_num_seqs=16),
        autoscaling=autoscaling,
        workers=workers,
    )


def worker(
    running: int = 0,
    waiting: int = 0,
    state: WorkerStatus = READY,
    usage: float = 0.0,
    is_paused: bool = False,
) -> WorkerState:
    load = WorkerLoad(running, waiting, usage, 0, 0.0)
    return WorkerState("main-0.0", "main", 1, state, "", load, is_paused=is_paused)


def room(
    *workers: WorkerState,
    lines: int = 0,
    share: float = 0.5,
    autoscaling: Autoscaling | None = None,
) -> Room:
    state = PoolState("e", 1, (GroupState("main", 1, ""),), workers, ())
    return room_for_lines(group(autoscaling), state, lines, share)


def test_an_idle_pool_gives_the_operators_share() -> None:
    assert room(worker(), worker()).lines == 16
    assert room(worker(), worker(), share=0.25).lines == 8
    assert room(worker(), share=1.0).lines == 14  # an eighth stays free


def test_live_requests_take_room_and_lines_do_not_count_as_such() -> None:
    assert room(worker(running=10)).lines == 4
    assert room(worker(running=10), lines=10).lines == 8
    assert room(worker(running=16, waiting=5)).lines == 1  # behind all others


def test_without_a_worker_one_line_wakes_or_starts_one() -> None:
    assert room_for_lines(group(), None, 0, 0.5) == Room(1)
    assert room() == room(worker(state=ASLEEP)) == room(worker(state=STARTING)) == Room(1)


def test_a_paused_pool_gets_no_lines() -> None:
    assert room(worker(is_paused=True)) == Room(0)
    assert room(worker(is_paused=True), worker()).lines == 8


def test_lines_wake_no_second_worker() -> None:
    assert room(worker(), worker(state=ASLEEP), share=1.0).lines == 8
    assert room(worker(running=5), worker(state=ASLEEP), share=1.0).lines == 3


@pytest.mark.parametrize(("live", "lines"), [(0, 5), (3, 2), (5, 1), (6, 4), (9, 1)])
def test_lines_make_an_elastic_group_no_larger(live: int, lines: int) -> None:
    limits = Autoscaling(min_workers=0, max_workers=4, target_requests=5.0)
    found = room(worker(running=live), worker(), worker(), share=1.0, autoscaling=limits)
    assert found.lines == lines


def test_others_wait_only_if_the_batch_is_full_or_memory_short() -> None:
    assert not room(worker(running=4, waiting=2)).is_short
    assert room(worker(running=16, waiting=1)).is_short
    assert room(worker(running=4, waiting=2, usage=0.9)).is_short


# The gate


class Gate:
    """A gate whose room a test sets, with a clock of its own."""

    def __init__(self, lines: int = 100) -> None:
        self.now_s = 0.0
        self.room = Room(lines)
        self.asked: list[int] = []
        self.gate = LineGate(self._room, lambda: self.now_s)
        self.stopped: list[int] = []
        self.ends: list[object] = []

    def _room(self, group: str, lines: int) -> Room:
        self.asked.append(lines)
        return self.room

    async def fill(self, most: int = 1000) -> int:
        """Let lines in while there is room; return how many run then."""
        count = sum(self.gate.in_flight.values())
        while count < most:
            try:
                await asyncio.wait_for(self.gate.enter("main"), 0.005)
            except TimeoutError:
                break
            number = count
            self.ends.append(self.gate.add("main", partial(self.stop, number)))
            count += 1
        return count

    def stop(self, number: int) -> None:
        self.stopped.append(number)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.now_s += line_gate.TICK_S
            self.gate.tick()


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def test_lines_rise_to_the_room_step_by_step(gate: Gate) -> None:
    counts = [await gate.fill()]
    for _ in range(20):
        gate.tick()
        counts.append(await gate.fill())
    assert counts[0] == FIRST_LINES
    assert counts[-1] == 100
    steps = [after - before for before, after in itertools.pairwise(counts)]
    assert max(steps) <= 26
    assert gate.asked[-1] == 100


async def test_lines_make_room_at_once_the_newest_first(gate: Gate) -> None:
    for _ in range(20):
        await gate.fill()
        gate.tick()
    gate.room = Room(10)
    gate.tick()
    assert gate.stopped == []  # they end by themselves
    gate.room = Room(10, is_short=True)
    gate.tick()
    assert gate.stopped == list(range(7, 100))


async def test_a_busy_process_begins_fewer_lines(gate: Gate) -> None:
    for _ in range(20):
        await gate.fill()
        gate.tick()
    gate.gate.tick(late_s=2 * line_gate.BUSY_S)
    assert 50 < gate.gate._limits["main"] <= 70
    assert gate.stopped == []
    gate.tick(3)
    before = gate.gate._limits["main"]
    for end in gate.ends:
        end()  # type: ignore[operator]
    gate.tick(10)
    assert gate.gate._limits["main"] > before


async def test_frontends_share_the_room(gate: Gate) -> None:
    gate.gate.others = (1, 0)
    for _ in range(20):
        await gate.fill()
        gate.tick()
    assert await gate.fill() == 100
    other = replace(gate.room, lines=40)
    gate.room, gate.gate.others = other, (1, 30)
    gate.tick()
    assert gate.gate._limits["main"] == 20  # half, though less is left
    gate.gate.others = (1, 5)
    gate.tick()
    assert 20 < gate.gate._limits["main"] <= 35
    assert gate.asked[-1] >= 5


async def test_a_pool_that_took_none_rests(gate: Gate) -> None:
    await gate.fill()
    gate.gate.pause("main", 2.0)
    gate.tick(10)
    waiting = asyncio.ensure_future(gate.gate.enter("main"))
    gate.tick(8)
    await asyncio.sleep(0)
    assert not waiting.done()
    for end in gate.ends:
        end()  # type: ignore[operator]
    gate.tick(4)
    await asyncio.wait_for(waiting, 1)


async def test_waiting_lines_have_their_turns(gate: Gate) -> None:
    await gate.fill()
    gate.room = Room(FIRST_LINES)
    order: list[str] = []

    async def wait(name: str) -> None:
        await gate.gate.enter("main")
        order.append(name)
        gate.gate.add("main", lambda: None)

    tasks = [asyncio.create_task(wait(name)) for name in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    for end in gate.ends[:2]:
        end()  # type: ignore[operator]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == ["a", "c"]
    await asyncio.gather(*tasks, return_exceptions=True)
