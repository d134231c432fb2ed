"""Applications that share a store and a folder of files."""

from collections.abc import AsyncIterator

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.batches import batch_runner, line_runs
from headrace.frontend.store import lazy_service
from tests.frontend.conftest import Serve


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    async with serve() as client:
        yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for seconds otherwise."""
    monkeypatch.setattr(batch_runner, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(batch_runner, "STALE_S", 0.5)
    monkeypatch.setattr(batch_runner, "REST_S", 0.1)
    monkeypatch.setattr(line_runs, "FLUSH_S", 0.02)
    monkeypatch.setattr(lazy_service, "CHECK_S", 0.05)
