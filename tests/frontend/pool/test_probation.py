"""A request that kills workers, and those beside it."""

import asyncio

import pytest

from headrace.frontend.pool.interface import RequestLost
from headrace.frontend.pool.probation import CLEARED_AFTER_TOKENS
from headrace.protocol.state import DRAINING, READY
from headrace.protocol.to_frontend import Output
from tests.frontend.pool.dispatching import Wire, begin


async def test_a_request_that_kills_workers_takes_no_other_with_it() -> None:
    wire = Wire()
    wire.state(w0=READY)
    tasks = {name: (await begin(wire, name))[1] for name in ("bad", "x", "y", "z")}
    deaths = 0
    answered: set[str] = set()
    while not tasks["bad"].done():
        worker = f"w{deaths}"
        running = wire.running(worker)
        if "bad" in {name.partition("+")[0] for name in running}:
            deaths += 1
            wire.state(**{f"w{deaths}": READY})
        else:
            for name in running:
                wire.answer(worker, Output(name, (5,), 0, "stop"))
                answered.add(name.partition("+")[0])
        await asyncio.sleep(0)
        assert deaths <= 4
    with pytest.raises(RequestLost):
        await tasks["bad"]
    worker = f"w{deaths}"
    while wire.dispatch.in_flight:
        for name in wire.running(worker):
            wire.answer(worker, Output(name, (5,), 0, "stop"))
    for name in "xyz":
        assert [output.token_ids for output in await tasks[name]] == [(5,)]
    assert deaths == 4


async def test_suspects_go_one_at_a_time_until_they_have_made_progress() -> None:
    wire = Wire()
    wire.state(w0=READY)
    tasks = [(await begin(wire, name))[1] for name in "xyz"]
    wire.state(w1=READY)
    assert len(wire.running("w1")) == 3
    wire.state(w2=READY)
    (first,) = wire.running("w2")
    wire.answer("w2", Output(first, (5,) * (CLEARED_AFTER_TOKENS - 1), 0))
    assert len(wire.running("w2")) == 1
    wire.answer("w2", Output(first, (5,), CLEARED_AFTER_TOKENS - 1))
    assert len(wire.running("w2")) == 2
    assert wire.dispatch.in_flight == 3
    second = (set(wire.running("w2")) - {first}).pop()
    wire.answer("w2", Output(second, (6,), 0, "stop"))
    third = (set(wire.running("w2")) - {first, second}).pop()
    wire.answer("w2", Output(third, (7,), 0, "stop"), Output(first, (8,), 16, "stop"))
    assert sorted([len(await task) for task in tasks]) == [1, 1, 3]
    assert wire.dispatch.in_flight == 0


async def test_a_suspect_whose_client_leaves_makes_room_for_the_next() -> None:
    wire = Wire()
    wire.state(w0=READY)
    flights = [(await begin(wire, name))[0] for name in "xyz"]
    wire.state(w1=READY)
    wire.state(w2=READY)
    while wire.dispatch.in_flight:
        (running,) = wire.running("w2")
        flight = next(each for each in flights if each.wire_id == running)
        flight.cancel()
    assert wire.dispatch.in_flight == 0


async def test_a_worker_that_is_drained_is_nobodys_fault() -> None:
    wire = Wire()
    wire.state(w0=READY)
    _, task = await begin(wire)
    for number in range(8):
        wire.state(**{f"w{number}": DRAINING, f"w{number + 1}": READY})
        wire.state(**{f"w{number + 1}": READY})
    wire.answer("w8", Output("r+8", (5,), 0, "stop"))
    assert [output.token_ids for output in await task] == [(5,)]
