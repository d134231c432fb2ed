"""A store that fails or is lost while responses run: streams have one end, numbers have no gap."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client
from sqlalchemy import select

from headrace.frontend.pool.interface import PoolBusy
from headrace.frontend.responses.execution import event_streams as following
from headrace.frontend.responses.execution import response_runner as runner
from headrace.frontend.responses.execution import store_maintenance
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import ResponseStore
from headrace.frontend.responses.store.rows import EventBatch
from headrace.frontend.responses.store.tables import responses
from headrace.frontend.store.database import Database, StoreUnavailable
from headrace.protocol.to_worker import Generate
from tests.frontend.conftest import Serve
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.response_asking import PATH, Event, ask, follow, stream, until

pytestmark = pytest.mark.usefixtures("quick")

ENDS = ("completed", "incomplete", "failed", "error")


class Breakable(Database):
    broken: bool


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """The tests' own way to the store, which always works."""
    database = Database(f"sqlite:///{tmp_path / 'responses.db'}")
    yield database
    database.close()


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch, database: Database) -> list[Breakable]:
    """Those of the frontends, in the order of their start; each fails while it is `broken`."""
    found: list[Breakable] = []
    working = Database._in_thread

    async def in_thread(self: Breakable, do: Callable[[], Any]) -> Any:
        if self is not database and self not in found:
            found.append(self)
        if getattr(self, "broken", False):
            raise StoreUnavailable
        return await working(self, do)

    monkeypatch.setattr(Database, "_in_thread", in_thread)
    return found


def kinds_of(events: list[Event]) -> list[str]:
    """The kinds of events that are numbered without a gap and have one end."""
    kinds = [event.kind for event in events]
    assert [event.data["sequence_number"] for event in events] == list(range(len(events)))
    assert [kind for kind in kinds if kind in ENDS] == kinds[-1:]
    return kinds


async def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come to be")


async def the_one(database: Database, column: str) -> Any:
    query = select(responses.c[column])
    return await database.read(lambda connection: connection.execute(query).scalar())


async def begun(client: Client, pool: FakePool, **fields: Any) -> Any:
    """A stream, as a task that returns its events in the end; four tokens have come."""
    pool.hold_after = 4
    telling = asyncio.create_task(stream(client, **fields))
    await pool.wait_for_streams(1)
    await asyncio.sleep(0.2)
    return telling


async def test_an_end_that_cannot_be_stored_is_told_as_an_error(
    client: Client, pool: FakePool, databases: list[Breakable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STORE_ATTEMPTS", 1)
    reply = pool.reply

    def break_and_reply(request: Generate) -> list[int]:
        databases[0].broken = True
        return reply(request)

    pool.reply = break_and_reply
    events = await stream(client)
    assert kinds_of(events)[-1] == "error"
    assert "store" in events[-1].data["message"]


async def test_followers_in_the_background_wait_for_the_store(
    serve: Serve, pool: FakePool, databases: list[Breakable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the frontend that runs it and on another, with one end for both."""
    monkeypatch.setattr(runner, "STORE_ATTEMPTS", 1)
    async with serve() as first, serve() as second:
        pool.failure = PoolBusy("all workers are at their limit", retry_after_s=0.01)
        body = await ask(first, background=True)
        follows = [asyncio.create_task(follow(each, body["id"])) for each in (first, second)]
        await asyncio.sleep(0.2)
        assert len(databases) == 2
        for each in databases:
            each.broken = True
        pool.failure = None
        await asyncio.sleep(0.5)
        for each in databases:
            each.broken = False
        both = [await asyncio.wait_for(each, 10) for each in follows]
        assert both[0] == both[1]
        assert kinds_of(both[0])[-1] in ("completed", "incomplete")


async def test_a_store_that_stays_away_ends_a_followers_stream(
    serve: Serve, pool: FakePool, databases: list[Breakable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "STORE_TIMEOUT_S", 0.1)
    pool.hold_after = 4
    async with serve() as first, serve() as second:
        body = await ask(first, background=True)
        await until(second, body["id"], "in_progress")
        following_it = asyncio.create_task(follow(second, body["id"]))
        await asyncio.sleep(0.2)
        databases[1].broken = True
        events = await asyncio.wait_for(following_it, 5)
        databases[1].broken = False
    assert kinds_of(events)[-1] == "error"


async def test_a_deleted_response_ends_the_streams_of_its_followers(
    serve: Serve, pool: FakePool
) -> None:
    pool.hold_after = 4
    async with serve() as first, serve() as second:
        body = await ask(first, background=True)
        await until(second, body["id"], "in_progress")
        follows = [asyncio.create_task(follow(each, body["id"])) for each in (first, second)]
        await asyncio.sleep(0.2)
        await second.delete(f"{PATH}/{body['id']}")
        for each in follows:
            events = await asyncio.wait_for(each, 5)
            assert kinds_of(events)[-1] == "error"
            assert "deleted" in events[-1].data["message"]


async def test_a_stream_that_others_end_is_told_so(
    client: Client, pool: FakePool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client has seen more than is stored, so that the stored end has a number of before."""
    monkeypatch.setattr(store_maintenance, "FLUSH_S", 1000)
    telling = await begun(client, pool)
    response_id = await the_one(database, "id")
    await ResponseStore(database, 1000, 1000).cancel(response_id, "")
    events = await asyncio.wait_for(telling, 5)
    assert kinds_of(events)[-1] == "incomplete"
    assert events[-1].data["response"]["status"] == "cancelled"


async def test_after_an_outage_the_living_keep_what_they_run(
    serve: Serve,
    pool: FakePool,
    databases: list[Breakable],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_maintenance, "STALE_S", 0.6)
    async with serve() as first:
        telling = await begun(first, pool)
        async with serve() as second:
            await second.get(f"{PATH}/resp_{'0' * 32}")
            await wait_for(lambda: len(databases) == 2)
            for each in databases:
                each.broken = True
            await asyncio.sleep(0.9)  # longer than signs of life may be away
            databases[1].broken = False
            await asyncio.sleep(0.2)
            databases[0].broken = False
            await asyncio.sleep(0.5)
            assert await the_one(database, "attempts") == 1
        telling.cancel()


async def test_what_was_stored_by_a_write_that_seemed_to_fail_is_not_stored_twice(
    client: Client,
    pool: FakePool,
    databases: list[Breakable],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database dies between a commit and its answer."""
    working = ResponseOwnership.add
    failures: list[list[EventBatch]] = []

    async def add(self: ResponseOwnership, owner: str, added: list[EventBatch]) -> set[Any]:
        lost = await working(self, owner, added)
        if len(failures) < 3:
            failures.append(added)
            raise StoreUnavailable
        return lost

    monkeypatch.setattr(ResponseOwnership, "add", add)
    monkeypatch.setattr(store_maintenance, "HEARTBEAT_S", 0.02)
    pool.hold_after = 4
    body = await ask(client, background=True)
    await wait_for(lambda: len(failures) == 3)
    await asyncio.sleep(0.2)
    entries, events, _ = await ResponseOwnership(database).journal(body["id"])
    stored, _ = await ResponseOwnership(database).events(body["id"], 0)
    assert len(stored) == len(set(stored)) == events
    assert len(entries) == 4
