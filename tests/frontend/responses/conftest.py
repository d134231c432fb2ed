"""Applications that share a store, and models that say what a test wants."""

from collections.abc import AsyncIterator

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.responses.execution import event_streams as following
from headrace.frontend.responses.execution import store_maintenance
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.conftest import Serve
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.response_script import Script, install


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    async with serve() as client:
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for seconds otherwise."""
    monkeypatch.setattr(store_maintenance, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(store_maintenance, "STALE_S", 0.3)
    monkeypatch.setattr(following, "POLL_S", 0.02)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, pool: FakePool, text: ModelTokenizer) -> Script:
    """A model that calls tools and thinks, as the test writes it."""
    return install(monkeypatch, pool, text)
