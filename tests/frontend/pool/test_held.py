"""Requests for a group that sleeps: held until a worker has been woken."""

import asyncio
from typing import Any

import pytest

from headrace.frontend.pool.assemble import assemble_dispatch
from headrace.frontend.pool.interface import PoolUnavailable
from headrace.protocol.state import ASLEEP, FALLING_ASLEEP, READY, STARTING, WAKING, GroupState
from headrace.protocol.to_frontend import Aborted, Output
from headrace.protocol.to_worker import Generate
from tests.frontend.pool.dispatching import Wire, begin


class Sleepers(Wire):
    """woken: the groups that the dispatch has asked to be woken."""

    def __init__(self, wakes: bool = True) -> None:
        super().__init__()
        self.woken: list[str] = []
        self.dispatch = assemble_dispatch(
            self._send,
            clock=lambda: self.now,
            on_replay=lambda group, worker_id: self.replayed.append(group),
            wake=self.woken.append if wakes else None,
            wake_timeout_s=30.0,
        )


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("state", [ASLEEP, FALLING_ASLEEP, WAKING])
async def test_a_request_is_held_and_somebody_is_woken(state: str) -> None:
    wire = Sleepers()
    wire.state(w=state)
    _, task = await begin(wire)
    assert wire.sent == []
    assert wire.woken == ["g"]
    wire.state(w=state)
    assert wire.woken == ["g", "g"]  # the first time may have been lost
    wire.state(w=READY)
    assert wire.where("r") == "w"
    wire.answer("w", Output("r", (1,), 0, "stop"))
    await settle()
    assert [each.token_ids for each in task.result()] == [(1,)]


async def test_a_request_that_has_waited_too_long_is_told_so() -> None:
    wire = Sleepers()
    wire.state(w=ASLEEP)
    _, task = await begin(wire)
    wire.now = 29.0
    wire.state(w=WAKING)
    await settle()
    assert not task.done()
    wire.now = 30.5
    wire.state(w=WAKING)
    await settle()
    with pytest.raises(PoolUnavailable) as raised:
        task.result()
    assert raised.value.retry_after_s > 0
    assert wire.dispatch.in_flight == 0


async def test_a_request_whose_worker_falls_asleep_before_it_comes_is_held() -> None:
    wire = Sleepers()
    wire.state(w=READY)
    _, task = await begin(wire)
    wire.refuse("w", "r", reason="the worker sleeps")
    await settle()
    assert not task.done()
    wire.state(w=FALLING_ASLEEP)
    assert wire.woken[-1:] == ["g"]
    wire.state(w=READY)
    assert len(wire.sent) == 2


async def test_what_is_handed_back_goes_on_elsewhere_with_its_tokens() -> None:
    wire = Sleepers()
    wire.state(v=READY)
    _, task = await begin(wire)
    wire.answer("v", Output("r", (1, 2), 0))
    wire.state(v=FALLING_ASLEEP, w=READY)
    wire.refuse("v", "r", reason="the worker has handed it back")
    worker, sent = wire.sent[-1]
    assert isinstance(sent, Generate)
    assert (worker, sent.output_token_ids, sent.is_replay) == ("w", (1, 2), True)
    wire.answer("w", Output("r", (3,), 2, "stop"))
    await settle()
    assert [each.token_ids for each in task.result()] == [(1, 2), (3,)]


async def test_without_waking_a_group_that_sleeps_is_unavailable() -> None:
    wire = Sleepers(wakes=False)
    wire.state(w=ASLEEP)
    _, task = await begin(wire)
    await settle()
    assert isinstance(task.exception(), PoolUnavailable)


async def test_a_group_that_is_awake_or_starts_wakes_nobody() -> None:
    wire = Sleepers()
    wire.state(v=READY, w=ASLEEP)
    await begin(wire)
    assert wire.where("r") == "v"
    assert wire.woken == []
    starting = Sleepers()
    starting.state(v=STARTING)
    _, task = await begin(starting)
    await settle()
    assert isinstance(task.exception(), PoolUnavailable)
    assert starting.woken == []


async def test_aborted_requests_end_with_the_reason() -> None:
    wire = Sleepers()
    wire.state(w=READY)
    _, task = await begin(wire)
    wire.answer("w", Output("r", (1,), 0))
    wire.dispatch.on_message("w", Aborted("w", 1, ("r", "unknown"), "it was put to sleep"))
    await settle()
    with pytest.raises(PoolUnavailable, match="put to sleep"):
        task.result()
    assert wire.dispatch.in_flight == 0
    assert len(wire.sent) == 1  # the worker knows


@pytest.mark.parametrize("rejects", [True, False])
async def test_requests_may_be_refused_while_their_group_is_scaled(rejects: bool) -> None:
    wire = Wire()
    wire.dispatch = assemble_dispatch(wire._send, reject_while_scaling=rejects)
    wire.groups = (GroupState("g", 2, "", is_scaling=True),)
    wire.state(w=READY)
    _, task = await begin(wire)
    await settle()
    assert len(wire.sent) == (0 if rejects else 1)
    assert task.done() == rejects
    if rejects:
        assert isinstance(task.exception(), PoolUnavailable)
        wire.groups = (GroupState("g", 2, ""),)
        wire.state(w=READY)
        await begin(wire, "again")
        assert len(wire.sent) == 1


@pytest.mark.parametrize("state", [{}, {"w": STARTING}])
async def test_a_group_without_workers_that_starts_some_on_demand_holds(
    state: dict[str, Any],
) -> None:
    wire = Sleepers()
    wire.groups = (GroupState("g", 0, "", starts_on_demand=True),)
    wire.state(**state)
    _, task = await begin(wire)
    assert (wire.sent, wire.woken) == ([], ["g"])
    assert wire.dispatch.held == {"g": 1}
    wire.now = 29.0
    wire.state(w=STARTING)
    wire.state(w=READY)
    assert wire.where("r") == "w"
    assert wire.dispatch.held == {}
    wire.answer("w", Output("r", (1,), 0, "stop"))
    await settle()
    assert task.done()


async def test_a_worker_that_is_not_started_in_time_is_told() -> None:
    wire = Sleepers()
    wire.groups = (GroupState("g", 1, "", starts_on_demand=True),)
    wire.state()
    _, task = await begin(wire)
    wire.now = 30.5
    wire.state(w=STARTING)
    await settle()
    with pytest.raises(PoolUnavailable, match="in time") as raised:
        task.result()
    assert raised.value.retry_after_s > 0


async def test_a_group_whose_first_worker_keeps_failing_is_unavailable() -> None:
    wire = Sleepers()
    wire.groups = (GroupState("g", 1, "g-0: 3 in a row have failed", starts_on_demand=True),)
    wire.state()
    _, task = await begin(wire)
    await settle()
    assert isinstance(task.exception(), PoolUnavailable)
