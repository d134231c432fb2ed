"""Where requests go and what becomes of them, without sockets."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from headrace.frontend.pool.held_flights import STRANDED_TIMEOUT_S
from headrace.frontend.pool.interface import PoolBusy, PoolUnavailable, RequestLost, RequestRejected
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.state import (
    DRAINING,
    READY,
    STALLED,
    STARTING,
    FrontendLoad,
    FrontendState,
    GroupState,
    PoolState,
    WorkerLoad,
    WorkerState,
)
from headrace.protocol.to_frontend import QUEUE_FULL, Output
from headrace.protocol.to_worker import BATCH_PRIORITY, Abort, Generate
from tests.frontend.pool.dispatching import ADMISSION, IDLE, Wire, begin, request


async def test_nothing_is_sent_before_the_first_output_is_asked_for() -> None:
    wire = Wire()
    wire.state(a=READY)
    wire.dispatch.submit("g", request("r"))
    assert wire.sent == []


async def test_outputs_arrive_in_order_and_end_with_the_finish() -> None:
    wire = Wire()
    wire.state(a=READY)
    _, task = await begin(wire)
    wire.answer("a", Output("r", (5,), 0, admission=ADMISSION))
    wire.answer("a", Output("r", (6,), 1), Output("unknown", (1,), 0))
    wire.answer("a", Output("r", (7,), 2, "stop"))
    outputs = await task
    assert [output.token_ids for output in outputs] == [(5,), (6,), (7,)]
    assert wire.dispatch.in_flight == 0
    assert not any(isinstance(message, Abort) for _, message in wire.sent)


async def test_no_ready_worker_fails_at_once() -> None:
    wire = Wire()
    for workers in ({}, {"a": STARTING}, {"a": DRAINING}, {"a": STALLED}):
        wire.state(**workers)
        _, task = await begin(wire)
        with pytest.raises(PoolUnavailable):
            await task


async def test_request_before_the_first_news_of_the_pool_waits_for_it() -> None:
    wire = Wire()
    _, reading = await begin(wire)
    assert not reading.done()
    wire.state(a=READY)
    wire.answer("a", Output("r", (5,), 0, "stop", admission=ADMISSION))
    assert [one.token_ids for one in await reading] == [(5,)]


async def test_other_groups_take_no_request() -> None:
    wire = Wire()
    wire.state(a=READY)
    with pytest.raises(PoolUnavailable):
        await anext(wire.dispatch.submit("other", request("r")))


@pytest.mark.parametrize("how", ["gone", "stalled", "gap", "wrong position"])
async def test_request_of_a_lost_worker_goes_on_elsewhere_with_its_tokens(how: str) -> None:
    wire = Wire()
    wire.state(a=READY, b=READY)
    _, task = await begin(wire)
    first = wire.where("r")
    second = "b" if first == "a" else "a"
    wire.answer(first, Output("r", (5, 6), 0, admission=ADMISSION))
    match how:
        case "gone":
            wire.state(**{second: READY})
        case "stalled":
            wire.state(**{first: STALLED, second: READY})
        case "gap":
            wire.full.add(first)  # a gap alone does not keep the worker from being chosen again
            wire.lose(first)
            wire.answer(first, Output("r", (8,), 3))
        case "wrong position":
            wire.full.add(first)
            wire.answer(first, Output("r", (8,), 3))
    assert wire.where("r") == second
    assert wire.replayed == ["g"]
    _, sent = wire.sent[-1]
    assert isinstance(sent, Generate)
    assert sent.output_token_ids == (5, 6)
    wire.answer(first, Output("r", (99,), 2))  # the lost one still talks: nobody listens
    wire.answer(second, Output("r+1", (7,), 2, "length", admission=ADMISSION))
    outputs = await task
    assert [output.token_ids for output in outputs] == [(5, 6), (7,)]
    assert [output.admission for output in outputs] == [ADMISSION, None]


async def test_only_worker_runs_a_request_again_after_a_gap() -> None:
    wire = Wire()
    wire.state(a=READY)
    _, task = await begin(wire)
    wire.answer("a", Output("r", (5,), 0))
    wire.lose("a")
    wire.answer("a", Output("r", (7,), 2))
    assert [message for _, message in wire.sent[1:]] == [
        Abort(("r",)),
        replace(request("r+1"), output_token_ids=(5,), is_replay=True),
    ]
    wire.answer("a", Output("r", (8,), 3))  # said before the abort came: nobody listens
    wire.answer("a", Output("r+1", (6,), 1, "stop"))
    assert [output.token_ids for output in await task] == [(5,), (6,)]
    assert wire.dispatch.in_flight == 0


async def test_output_that_does_not_fit_moves_its_neighbours_too_and_doubles_nothing() -> None:
    wire = Wire()
    wire.state(a=READY)
    _, broken = await begin(wire, "x")
    _, healthy = await begin(wire, "y")
    wire.answer("a", Output("x", (5,), 3), Output("y", (6,), 0))
    wire.answer("a", Output("x+1", (5,), 0, "stop"), Output("y+1", (6,), 0, "stop"))
    assert [output.token_ids for output in await broken] == [(5,)]
    assert [output.token_ids for output in await healthy] == [(6,)]


async def test_request_waits_for_a_worker_when_the_only_one_dies() -> None:
    wire = Wire()
    wire.state(a=READY)
    _, task = await begin(wire)
    wire.answer("a", Output("r", (5,), 0))
    wire.state()
    assert wire.dispatch.in_flight == 1
    wire.state(b=STARTING)
    wire.state(b=READY)
    wire.answer("b", Output("r+1", (6,), 1, "stop"))
    assert [output.token_ids for output in await task] == [(5,), (6,)]


async def test_request_waits_for_a_worker_only_so_long() -> None:
    wire = Wire()
    wire.state(a=READY)
    _, task = await begin(wire)
    wire.state()
    wire.now = STRANDED_TIMEOUT_S - 1
    wire.state(b=STARTING)
    assert wire.dispatch.in_flight == 1
    wire.now = STRANDED_TIMEOUT_S
    wire.state(b=STARTING)
    assert wire.dispatch.in_flight == 1  # large models take longer
    wire.state()
    with pytest.raises(PoolUnavailable):
        await task
    assert wire.dispatch.in_flight == 0


async def test_request_whose_workers_start_and_fail_again_and_again_is_given_up() -> None:
    wire = Wire()
    wire.state(a=READY)
    _, task = await begin(wire)
    wire.groups = (GroupState("g", 1, problem="3 in a row have failed"),)
    wire.state(b=STARTING)
    wire.now = STRANDED_TIMEOUT_S
    wire.state(b=STARTING)
    with pytest.raises(PoolUnavailable):
        await task


async def test_request_that_comes_while_the_only_worker_is_replaced_waits_for_the_other() -> None:
    wire = Wire()
    wire.groups = (GroupState("g", 1, "", is_replacing=True),)
    wire.state(a=DRAINING)
    _, task = await begin(wire)
    wire.state()
    wire.state(b=STARTING)
    assert wire.sent == []
    wire.groups = (GroupState("g", 1, ""),)
    wire.state(b=READY)
    wire.answer("b", Output("r", (5,), 0, "stop", admission=ADMISSION))
    assert len(await task) == 1


async def test_request_that_meets_a_worker_before_the_news_that_it_stops_waits() -> None:
    wire = Wire()
    wire.state(a=READY)
    _, task = await begin(wire)
    wire.refuse("a", "r")  # not for want of room
    wire.groups = (GroupState("g", 1, "", is_replacing=True),)
    wire.state(a=DRAINING)
    assert wire.dispatch.in_flight == 1
    wire.state(b=READY)
    assert wire.where("r") == "b"
    wire.refuse("b", "r", retry_after_s=2.0)  # full: that is final
    with pytest.raises(PoolBusy):
        await task


async def test_request_that_loses_worker_after_worker_ends_with_an_error() -> None:
    wire = Wire()
    wire.state(w0=READY)
    _, task = await begin(wire)
    for number in range(3 + 1):
        wire.state(**{f"w{number + 1}": READY})
    with pytest.raises(RequestLost, match="not tried again"):
        await task
    assert wire.dispatch.in_flight == 0
    assert len(wire.replayed) == 3


async def test_replays_to_workers_that_are_dead_already_are_no_failures_of_the_request() -> None:
    wire = Wire()
    workers = [f"w{number}" for number in range(6)]
    wire.state(**dict.fromkeys(workers, READY))
    _, task = await begin(wire)
    while (where := wire.where("r")) and len(workers) > 1:
        wire.dead = set(workers)  # all have died together, and the news comes one by one
        workers.remove(where)
        wire.state(**dict.fromkeys(workers, READY))
    wire.dead = set()
    wire.answer(where, Output("r+5", (5,), 0, "stop"))
    assert [output.token_ids for output in await task] == [(5,)]


async def test_request_that_kills_workers_before_they_say_anything_is_given_up_too() -> None:
    wire = Wire()
    wire.state(w0=READY)
    _, task = await begin(wire)
    deaths = 0
    while not task.done() and deaths < 100:
        deaths += 1
        wire.dead.add(f"w{deaths}")
        wire.state(**{f"w{deaths}": READY})
        await asyncio.sleep(0)
    with pytest.raises(RequestLost):
        await task
    assert deaths < 40


async def test_refused_request_tries_the_others_then_fails_as_busy() -> None:
    wire = Wire()
    wire.state(a=READY, b=READY)
    _, task = await begin(wire)
    first = wire.where("r")
    wire.refuse(first, "r", retry_after_s=9.0)
    second = wire.where("r")
    assert second != first
    wire.refuse(second, "r", retry_after_s=4.0)
    with pytest.raises(PoolBusy) as busy:
        await task
    assert busy.value.retry_after_s == 4.0
    assert wire.dispatch.in_flight == 0


async def test_worker_that_reads_nothing_is_passed_over() -> None:
    wire = Wire()
    wire.state(a=READY, b=READY)
    wire.full = {"a"}
    for number in range(8):
        await begin(wire, f"r{number}")
    assert {worker for worker, _ in wire.sent} == {"b"}


async def test_request_at_fault_is_not_tried_elsewhere() -> None:
    wire = Wire()
    wire.state(a=READY, b=READY)
    _, task = await begin(wire)
    wire.refuse(wire.where("r"), "r", retry_elsewhere=False)
    with pytest.raises(RequestRejected, match="no room"):
        await task
    assert len(wire.sent) == 1


async def test_replay_that_is_refused_waits_instead_of_failing_in_the_middle() -> None:
    wire = Wire()
    wire.state(a=READY, b=READY)
    _, task = await begin(wire)
    first = wire.where("r")
    second = "b" if first == "a" else "a"
    wire.answer(first, Output("r", (5,), 0, admission=ADMISSION))
    wire.state(**{second: READY})
    wire.refuse(second, "r+1")
    assert wire.dispatch.in_flight == 1
    wire.state(c=READY)
    wire.answer("c", Output("r+1", (6,), 1, "stop"))
    assert [output.token_ids for output in await task] == [(5,), (6,)]


async def test_prompt_logprobs_are_not_asked_for_again() -> None:
    wire = Wire()
    wire.state(a=READY)
    sampling = SamplingParams(seed=1, max_tokens=9, prompt_logprobs=2)
    flight = wire.dispatch.submit("g", Generate("r", (1, 2), sampling))
    task = asyncio.create_task(anext(flight))
    await asyncio.sleep(0)
    wire.answer("a", Output("r", (5,), 0, admission=ADMISSION))
    await task
    wire.state(b=READY)
    _, sent = wire.sent[-1]
    assert isinstance(sent, Generate)
    assert sent.sampling.prompt_logprobs is None


async def test_cancel_before_the_start_sends_nothing_and_ends_the_reader() -> None:
    wire = Wire()
    wire.state(a=READY)
    flight = wire.dispatch.submit("g", request("r"))
    flight.cancel()
    with pytest.raises(StopAsyncIteration):
        await anext(flight)
    assert wire.sent == []


async def test_cancel_wakes_whoever_reads() -> None:
    wire = Wire()
    wire.state(a=READY)
    flight, task = await begin(wire)
    flight.cancel()
    assert await task == []


async def test_worker_under_a_known_id_but_another_pid_is_another_worker() -> None:
    wire = Wire()
    wire.state(a=READY)
    other = WorkerState("a", "g", 99, STARTING, "ipc://a", IDLE)
    merged = wire.dispatch.on_state(PoolState("f", 1, (), (other,), ()))
    assert merged.workers[0].state == STARTING


async def test_cancel_aborts_once_and_frees_the_place() -> None:
    wire = Wire()
    wire.state(a=READY)
    flight, task = await begin(wire)
    flight.cancel()
    flight.cancel()
    aborts = [message for _, message in wire.sent if isinstance(message, Abort)]
    assert aborts == [Abort(("r",))]
    assert wire.dispatch.in_flight == 0
    wire.answer("a", Output("r", (5,), 0))
    task.cancel()


async def test_cancel_of_a_request_that_waits_for_a_worker() -> None:
    wire = Wire()
    wire.state(a=READY)
    flight, task = await begin(wire)
    wire.state()
    flight.cancel()
    assert wire.dispatch.in_flight == 0
    wire.state(b=READY)
    assert [worker for worker, _ in wire.sent] == ["a"]
    task.cancel()


async def test_cancel_after_the_end_sends_nothing() -> None:
    wire = Wire()
    wire.state(a=READY)
    flight, task = await begin(wire)
    wire.answer("a", Output("r", (5,), 0, "stop"))
    await task
    flight.cancel()
    assert len(wire.sent) == 1


async def test_ready_worker_stays_so_under_a_coordinator_that_does_not_know_it_yet() -> None:
    wire = Wire()
    wire.state(a=READY)
    merged = wire.state(a=STARTING)
    assert merged.workers[0].state == READY
    _, task = await begin(wire)
    assert wire.where("r") == "a"
    task.cancel()


async def test_load_is_shared_out_evenly() -> None:
    wire = Wire()
    wire.state(a=READY, b=READY, c=READY)
    for number in range(30):
        await begin(wire, f"r{number}")
    counts = [sum(worker == name for worker, _ in wire.sent) for name in "abc"]
    assert counts == [10, 10, 10]


async def test_what_other_frontends_sent_counts_too() -> None:
    wire = Wire()
    wire.state({"a": WorkerLoad(6, 4, 0.0, 1, 0.0)}, a=READY, b=READY)
    for number in range(10):
        await begin(wire, f"r{number}")
    assert {worker for worker, _ in wire.sent} == {"b"}


async def test_a_burst_is_spread_evenly_by_frontends_that_see_the_same() -> None:
    """What all of them see is as old as the burst's beginning, and speaks for one worker."""
    wires = [Wire() for _ in range(4)]
    names = "abcd"
    loads = dict.fromkeys(names, WorkerLoad(2, 0, 0.0, 0, 0.0)) | {"c": IDLE}
    frontends = tuple(FrontendState(f"f{n}", 1, FrontendLoad(0)) for n in range(4))
    for wire in wires:
        state = wire.state(loads, **dict.fromkeys(names, READY))
        wire.dispatch.on_state(replace(state, frontends=frontends))
    for number in range(16):
        for wire in wires:
            await begin(wire, f"r{number}")
    sent = Counter(worker for wire in wires for worker, _ in wire.sent)
    assert max(sent.values()) - min(sent.values()) <= 4, sent


async def test_a_rejected_line_of_a_batch_says_nothing_of_other_requests() -> None:
    wire = Wire()
    wire.state(a=READY)
    line = replace(request("line"), priority=BATCH_PRIORITY)
    task = asyncio.ensure_future(anext(wire.dispatch.submit("g", line)))
    await asyncio.sleep(0)
    wire.refuse("a", "line", reason=QUEUE_FULL, retry_after_s=4.0)
    with pytest.raises(PoolBusy):
        await task
    assert wire.dispatch.why_busy() is None


async def test_what_leaves_a_full_worker_lets_another_request_pass() -> None:
    wire = Wire()
    wire.state(a=READY)
    stream, task = await begin(wire, "taken")
    _, refused = await begin(wire, "refused")
    assert wire.dispatch.why_busy() is None
    wire.refuse("a", "refused", reason=QUEUE_FULL, retry_after_s=4.0)
    with pytest.raises(PoolBusy):
        await refused
    busy = wire.dispatch.why_busy()
    assert busy is not None
    assert busy.retry_after_s == 4.0
    stream.cancel()
    assert wire.dispatch.why_busy() is None
    assert wire.dispatch.why_busy() is not None
    task.cancel()
