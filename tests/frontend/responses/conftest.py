"""Applications that share a store, and models that say what a test wants."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from quart import Quart
from quart.typing import TestClientProtocol as Client
from sqlalchemy import create_engine

from headrace.frontend.responses.execution import event_streams as following
from headrace.frontend.responses.execution import store_maintenance
from headrace.frontend.store.engine import metadata
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.postgres import binaries, cluster
from tests.frontend.responses.response_script import Script, install

Serve = Callable[..., contextlib.AbstractAsyncContextManager[Client]]


@pytest.fixture
def serve(make_app: Callable[..., Quart]) -> Serve:
    """`async with serve() as client`: a frontend from its start to its end. All of a test share the
    store of the test's run directory."""

    @contextlib.asynccontextmanager
    async def run(**settings: object) -> AsyncIterator[Client]:
        async with make_app(**settings).test_app() as app:
            yield app.test_client()

    return run


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with cluster(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    url = request.getfixturevalue("postgres")
    yield url
    engine = create_engine(url)
    metadata.drop_all(engine)
    engine.dispose()
