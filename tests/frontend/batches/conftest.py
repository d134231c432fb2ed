"""Applications that share a store and a folder of files."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from quart import Quart
from quart.typing import TestClientProtocol as Client
from sqlalchemy import create_engine

from headrace.frontend.batches import batch_runner, lazy_service, line_runs
from headrace.frontend.store.engine import metadata
from tests.frontend.responses.postgres import binaries, cluster

Serve = Callable[..., contextlib.AbstractAsyncContextManager[Client]]


@pytest.fixture
def serve(make_app: Callable[..., Quart]) -> Serve:
    """`async with serve() as client`: a frontend from its start to its end. All of a test share the
    folders of the test."""

    @contextlib.asynccontextmanager
    async def run(**settings: object) -> AsyncIterator[Client]:
        async with make_app(**settings).test_app() as app:
            yield app.test_client()

    return run


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
