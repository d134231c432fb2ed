"""The store, on each kind of database."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.frontend.errors import BadRequest
from headrace.frontend.principal import NOBODY, Principal
from headrace.frontend.responses.execution.job import Job
from headrace.frontend.responses.store.ownership import ResponseOwnership
from headrace.frontend.responses.store.response_store import MAX_CHAIN, ResponseStore
from headrace.frontend.responses.store.rows import EventBatch, StoredResponse
from headrace.frontend.schemas.responses import ResponsesRequest
from headrace.frontend.store.database import Database, StoreUnavailable
from headrace.frontend.store.engine import VERSION, create_tables, make_engine, versions


def job(
    number: int, previous: str | None = None, background: bool = True, text: str = "Hello"
) -> Job:
    body = {
        "id": f"resp_{number:032x}",
        "object": "response",
        "status": "queued",
        "background": background,
        "created_at": 1,
        "model": "smol",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "none",
        "tools": [],
    }
    request = ResponsesRequest(input=text, previous_response_id=previous)
    item = {"id": f"msg_{number}", "type": "message", "role": "user", "content": []}
    return Job(body, request, (), [item], seed=1, fingerprint="f")


def take(
    ownership: ResponseOwnership,
    owner: str,
    stale_s: int,
    fingerprints: list[str] | tuple[str] = ("f",),
    abandoned_s: float = 1e6,
) -> Awaitable[Any]:
    return ownership.take_over(owner, stale_s, fingerprints, abandoned_s)


def done(work: Job, status: str = "completed") -> dict[str, Any]:
    output = [{"id": f"out_{work.response_id}", "type": "message"}]
    return {**work.body, "status": status, "output": output}


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    database = Database(store_url)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> ResponseStore:
    return ResponseStore(database, max_age_s=1000, max_count=1000)


@pytest.fixture
def ownership(database: Database) -> ResponseOwnership:
    return ResponseOwnership(database)


async def got(store: ResponseStore, response_id: str) -> StoredResponse:
    stored = await store.get(response_id, "")
    assert stored is not None
    return stored


async def test_what_is_created_can_be_read(store: ResponseStore) -> None:
    work = job(1, text="naïve \U0001f600 \x00")
    await store.create(work, "me")
    stored = await store.get(work.response_id, "")
    assert stored is not None
    assert stored.body == work.body
    assert stored.inputs == list(work.inputs)
    again = Job.from_stored(stored, (), NOBODY)
    assert (again.request, again.seed, again.fingerprint) == (work.request, 1, "f")
    assert await store.get(job(2).response_id, "") is None


async def test_events_and_journal_come_in_batches(
    store: ResponseStore, ownership: ResponseOwnership
) -> None:
    work = job(1)
    await store.create(work, "me")
    id_ = work.response_id
    assert await ownership.events(id_, 0) == ([], False)
    assert (
        await ownership.add("me", [EventBatch(id_, 0, ["a", "b", "c"], [["value", "k", 1]])])
        == set()
    )
    assert await ownership.add("me", [EventBatch(id_, 3, [], [["value", "l", 2]])]) == set()
    assert await ownership.add("me", [EventBatch(id_, 3, ["d"], [])]) == set()
    for first, expected in enumerate([list("abcd"), list("bcd"), list("cd"), ["d"], [], []]):
        assert await ownership.events(id_, first) == (expected, False)
    assert await ownership.journal(id_) == ([["value", "k", 1], ["value", "l", 2]], 4, 3)
    assert (await got(store, id_)).body["status"] == "in_progress"
    assert await ownership.finish("me", EventBatch(id_, 4, ["e"], []), done(work))
    assert await ownership.events(id_, 3) == (["d", "e"], True)
    assert (await got(store, id_)).body == done(work)


async def test_a_batch_that_comes_again_is_stored_once(
    store: ResponseStore, ownership: ResponseOwnership
) -> None:
    """A write that is reported as failed may yet have been made."""
    work = job(1)
    await store.create(work, "me")
    batch = EventBatch(work.response_id, 0, ["a", "b"], [["value", "k", 1]], 0)
    for _ in range(2):
        assert await ownership.add("me", [batch]) == set()
    last = EventBatch(work.response_id, 2, ["c"], [], 1)
    assert await ownership.finish("me", last, done(work), before=batch)
    assert await ownership.events(work.response_id, 0) == (["a", "b", "c"], True)
    assert await ownership.journal(work.response_id) == ([["value", "k", 1]], 3, 2)


async def test_only_the_owner_writes(store: ResponseStore, ownership: ResponseOwnership) -> None:
    work = job(1)
    await store.create(work, "me")
    batch = EventBatch(work.response_id, 0, ["a"], [])
    assert await ownership.add("other", [batch]) == {work.response_id}
    assert not await ownership.finish("other", batch, done(work))
    assert await ownership.renew_heartbeats("other", {work.response_id}) == set()
    assert await ownership.renew_heartbeats("me", {work.response_id}) == {work.response_id}
    assert await ownership.events(work.response_id, 0) == ([], False)


async def test_a_cancelled_response_is_lost_to_its_owner(
    store: ResponseStore, ownership: ResponseOwnership
) -> None:
    work = job(1)
    await store.create(work, "me")
    await ownership.add("me", [EventBatch(work.response_id, 0, ["a", "b"], [])])
    cancelled = await store.cancel(work.response_id, "")
    assert cancelled is not None
    assert cancelled.body["status"] == "cancelled"
    late = EventBatch(work.response_id, 2, ["c"], [])
    assert await ownership.add("me", [late]) == {work.response_id}
    assert not await ownership.finish("me", late, done(work))
    events, ended = await ownership.events(work.response_id, 0)
    assert events[:2] == ["a", "b"]
    assert '"sequence_number":2' in events[2]
    assert ended
    cancelled = await store.cancel(work.response_id, "")
    assert cancelled is not None
    assert cancelled.body["status"] == "cancelled"
    assert await store.cancel(job(9).response_id, "") is None


async def test_a_stale_response_is_taken_over_once(
    store_url: str, store: ResponseStore, ownership: ResponseOwnership
) -> None:
    for number in range(20):
        await store.create(job(number), "dead")
    assert await take(ownership, "a", 1000) == []
    await ownership.release("dead")
    databases = [Database(store_url) for _ in range(4)]
    taken = await asyncio.gather(
        *(take(ResponseOwnership(each), str(n), 1000) for n, each in enumerate(databases))
    )
    ids = [stored.body["id"] for each in taken for stored in each]
    assert len(ids) == len(set(ids)) == 20
    assert {stored.attempts for each in taken for stored in each} == {2}
    for each in databases:
        each.close()


async def test_what_is_released_is_stale_at_once(
    store: ResponseStore, ownership: ResponseOwnership
) -> None:
    await store.create(job(1), "me")
    await ownership.release("me")
    assert len(await take(ownership, "other", 10_000)) == 1


async def test_what_other_models_have_begun_is_left_to_them(
    store: ResponseStore, ownership: ResponseOwnership
) -> None:
    await store.create(job(1), "me")
    await store.create(job(2, background=False), "me")
    await ownership.release("me")
    others = await take(ownership, "other", 0, fingerprints=["g"])
    assert [stored.body["id"] for stored in others] == [job(2).response_id]
    own = await take(ownership, "another", 0, fingerprints=["g", "f"])
    assert job(1).response_id in [stored.body["id"] for stored in own]
    given_up = await take(ownership, "other", 0, fingerprints=[], abandoned_s=0)
    assert job(1).response_id in [stored.body["id"] for stored in given_up]


async def test_conversations_are_walked_to_their_beginning(
    store: ResponseStore, ownership: ResponseOwnership
) -> None:
    previous = None
    for number in range(5):
        work = job(number, previous)
        await store.create(work, "me", {**done(work)})
        previous = work.response_id
    assert previous is not None
    items = await store.conversation(previous, "")
    assert [item["id"] for item in items[::2]] == [f"msg_{number}" for number in range(5)]
    await store.delete(job(0).response_id, "")
    with pytest.raises(BadRequest, match="not stored any more"):
        await store.conversation(previous, "")


async def test_a_conversation_has_a_length(
    store: ResponseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.frontend.responses.store.response_store.MAX_CHAIN", 2)
    previous = None
    for number in range(3):
        await store.create(job(number, previous), None)
        previous = job(number).response_id
    assert previous is not None
    with pytest.raises(BadRequest, match="too long"):
        await store.conversation(previous, "")
    assert MAX_CHAIN > 100


async def test_the_oldest_go_first_and_their_events_with_them(
    database: Database, ownership: ResponseOwnership
) -> None:
    store = ResponseStore(database, max_age_s=1000, max_count=2)
    for number in range(5):
        work = job(number)
        await store.create(work, "me")
        await ownership.add("me", [EventBatch(work.response_id, 0, ["a"], [])])
        if number < 4:
            await ownership.finish("me", EventBatch(work.response_id, 1, ["b"], []), done(work))
        await asyncio.sleep(0.002)
    assert await store.prune() == 2
    left = [await store.get(job(number).response_id, "") for number in range(5)]
    assert [stored is not None for stored in left] == [False, False, True, True, True]
    assert await ownership.events(job(0).response_id, 0) == ([], True)
    aged = ResponseStore(database, max_age_s=0.001, max_count=100)
    assert await aged.prune() == 2
    assert await store.get(job(4).response_id, "") is not None  # it runs


async def test_deleting_takes_events_along(
    store: ResponseStore, ownership: ResponseOwnership
) -> None:
    work = job(1)
    await store.create(work, "me")
    await ownership.add("me", [EventBatch(work.response_id, 0, ["a"], [])])
    assert await store.delete(work.response_id, "")
    assert await ownership.events(work.response_id, 0) == ([], True)
    await store.create(work, "me")
    assert await ownership.events(work.response_id, 0) == ([], False)


def test_many_frontends_may_make_the_tables_at_once(store_url: str) -> None:
    program = (
        "import sys; import headrace.frontend.responses.store.tables;"
        "from headrace.frontend.store.engine import *;"
        "engine = make_engine(sys.argv[1]); create_tables(engine); create_tables(engine)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, store_url], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()


async def test_writers_wait_for_each_other(store_url: str) -> None:
    databases = [Database(store_url) for _ in range(3)]
    stores = [ResponseStore(each, 1000, 1000) for each in databases]
    await asyncio.gather(
        *(store.create(job(100 * n + m), "me") for n, store in enumerate(stores) for m in range(20))
    )
    for n in range(3):
        assert await stores[0].get(job(100 * n + 19).response_id, "") is not None
    for each in databases:
        each.close()


async def test_a_store_of_another_version_is_refused(store_url: str) -> None:
    engine = make_engine(store_url)
    create_tables(engine)
    with engine.begin() as connection:
        connection.execute(versions.update().values(version=VERSION + 1))
    engine.dispose()
    database = Database(store_url)
    with pytest.raises(StoreUnavailable):
        await ResponseStore(database, 1, 1).get("resp_x", "")
    database.close()


@pytest.mark.parametrize("kept", [(), ("-wal", "-shm")])
async def test_a_file_that_is_removed_is_made_again(tmp_path: Path, kept: tuple[str, ...]) -> None:
    """Connections to the old one would still work, each frontend with a store of its own."""
    path = tmp_path / "store.db"
    databases = [Database(f"sqlite:///{path}") for _ in range(2)]
    one, other = stores = [ResponseStore(each, 1000, 1000) for each in databases]
    for number, store in enumerate(stores):
        await store.create(job(number), None)
    for file in list(tmp_path.glob("store.db*")):  # noqa: ASYNC240 - files of a temporary folder
        if not file.name.endswith(kept or " "):
            file.unlink()
    for number, store in enumerate(stores, start=2):
        await store.create(job(number), None)
    assert await other.get(job(2).response_id, "") is not None
    assert await one.get(job(3).response_id, "") is not None
    assert await one.get(job(0).response_id, "") is None
    assert path.stat().st_mode & 0o077 == 0
    for each in databases:
        each.close()


async def test_a_full_disk_is_an_error_until_there_is_room(database: Database) -> None:
    if database._engine.dialect.name != "sqlite":
        pytest.skip("the other kind's disk is the server's")
    store = ResponseStore(database, 1000, 1000)
    await store.create(job(1), None)

    def limit(pages: int) -> Callable[..., Any]:
        return lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    await database.read(limit(1))
    with pytest.raises(StoreUnavailable):
        await store.create(job(2, text="x" * 1_000_000), None)
    assert (await store.get(job(1).response_id, "")) is not None
    await database.read(limit(1_000_000))
    await store.create(job(9), None)


async def test_a_database_that_does_not_answer_is_an_error(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps nobody waiting, and serves again when it is back."""
    monkeypatch.setattr("headrace.frontend.store.database.DEADLINE_S", 0.2)
    store = ResponseStore(database, 1000, 1000)
    frozen = threading.Event()
    for _ in range(2):
        stuck: list[asyncio.Task[Any]] = [
            asyncio.create_task(database.read(lambda _: frozen.wait(5))) for _ in range(4)
        ]
        stuck.append(asyncio.create_task(store.create(job(1), None)))
        for each in stuck:
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(each, 1)
    frozen.set()
    await asyncio.sleep(0.1)
    await store.create(job(2), None)


async def test_a_server_that_is_gone_is_an_error_and_no_secret_is_told() -> None:
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/none"
    database = Database(url)
    with pytest.raises(StoreUnavailable) as caught:
        await ResponseStore(database, 1, 1).get("resp_x", "")
    assert "secret" not in caught.value.message
    assert "127.0.0.1" not in caught.value.message
    database.close()


async def test_one_tenant_pushes_out_nothing_of_another(database: Database) -> None:
    store = ResponseStore(database, max_age_s=1000, max_count=2)
    for number in range(8):
        principal = Principal("many" if number else "few")
        await store.create(replace(job(number), principal=principal), None, done(job(number)))
        await asyncio.sleep(0.005)
    await store.prune()
    ids = [job(number).response_id for number in range(8)]
    assert await store.get(ids[0], "few") is not None
    kept = [each for each in ids if await store.get(each, "many") is not None]
    assert kept == ids[-2:]
    assert not await store.delete(ids[0], "many")
    assert await store.cancel(ids[0], "many") is None
    assert await store.get(ids[0], "few") is not None
