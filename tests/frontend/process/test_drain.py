"""When a frontend that leaves may end."""

import asyncio

import pytest

from headrace.frontend.process import drain as module
from headrace.frontend.process.drain import Drain


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.001)


async def test_frontend_that_leaves_ends_with_its_last_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 300.0)
    drain, connections = Drain(), [1]
    draining = asyncio.create_task(drain.hand_over_to_successor(lambda: len(connections)))
    await asyncio.sleep(0.005)
    assert not drain.keeps_connections
    assert not drain.has_begun  # it refuses nothing
    assert not draining.done()
    connections.clear()
    await asyncio.wait_for(draining, 5)


async def test_frontend_that_leaves_waits_for_requests_but_not_for_idle_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.03)
    drain = Drain()
    request = drain.begin_request()
    draining = asyncio.create_task(drain.hand_over_to_successor(lambda: 1))
    await asyncio.sleep(0.1)
    assert not draining.done()
    drain.end_request(request)
    await asyncio.wait_for(draining, 5)
