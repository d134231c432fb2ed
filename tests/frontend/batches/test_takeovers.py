"""Batches whose frontends end, die or stall; on both kinds of stores."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quart import Quart

from headrace.frontend.batches import batch_run, line_runs
from headrace.frontend.batches.batch import IN_PROGRESS, Progress, StoredBatch
from headrace.frontend.batches.batch_store import BatchNotFound, BatchStore, new_batch_id
from headrace.frontend.batches.journal import BatchJournal, LineResult, results
from headrace.frontend.batches.ownership import BatchOwnership
from headrace.frontend.store.database import Database
from headrace.protocol.to_worker import Generate
from tests.frontend.batches.batch_asking import (
    batch,
    chat_line,
    content,
    created,
    wait_for,
)
from tests.frontend.conftest import Serve
from tests.frontend.fake_pool import FakePool

OPTIONS = {
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file-1",
    "completion_window": "24h",
    "metadata": None,
    "output_expires_after_s": None,
}


async def some_done(client: Any, batch_id: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (await batch(client, batch_id))["request_counts"]["completed"] >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("too slow")


async def gone(*folders: Path) -> None:
    """Wait until nothing is left in these folders."""
    deadline = time.monotonic() + 20
    while any(any(folder.iterdir()) for folder in folders):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_another_frontend_continues(
    serve: Serve, store_url: str, pool: FakePool, tmp_path: Path
) -> None:
    """The first one ends in good order, and its lines with it; each line has one result."""
    settings = {"response_store_url": store_url, "file_dir": tmp_path / "kept"}
    reply = pool.reply

    def stop_after_100(request: Generate) -> list[int]:
        pool.hold_after = 1 if len(pool.requests) >= 100 else None
        return reply(request)

    pool.reply = stop_after_100
    async with serve(**settings) as client:
        batch_id = await created(client, [chat_line(f"line-{n}") for n in range(300)])
        await some_done(client, batch_id, 20)
    begun = len(pool.requests)
    pool.reply, pool.hold_after = reply, None
    assert begun < 300
    async with serve(**settings) as client:
        done = await wait_for(client, batch_id)
        assert done["request_counts"] == {"total": 300, "completed": 300, "failed": 0}
        found = await content(client, done["output_file_id"])
        await gone(tmp_path / "kept" / "batches", tmp_path / "kept" / "uploads")
    assert sorted(each["custom_id"] for each in found) == sorted(f"line-{n}" for n in range(300))
    assert len(pool.requests) < 300 + begun  # what was done was not done again


async def test_a_frontend_that_freezes_loses_its_batch(
    make_app: Callable[..., Quart],
    serve: Serve,
    store_url: str,
    pool: FakePool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lines go on, and their results do not count twice."""
    settings = {"response_store_url": store_url, "file_dir": tmp_path / "kept"}
    pool.hold_after = 1
    async with serve(**settings) as first:
        batch_id = await created(first, [chat_line(f"line-{n}") for n in range(4)])
        await pool.wait_for_streams(4)

        # It renews nothing any more.
        is_frozen = asyncio.Event()

        async def frozen(*_: object) -> dict[str, StoredBatch]:
            is_frozen.set()
            await asyncio.Event().wait()
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(BatchOwnership, "renew", frozen)
            await is_frozen.wait()
        async with serve(**settings) as second:
            await pool.wait_for_streams(8)
            pool.release.set()
            done = await wait_for(second, batch_id)
            assert done["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
            found = await content(second, done["output_file_id"])
            assert sorted(each["custom_id"] for each in found) == [f"line-{n}" for n in range(4)]


async def test_a_batch_that_ends_its_frontends_is_given_up(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "MAX_FRUITLESS", -1)
    async with serve() as client:
        failed = await wait_for(client, await created(client, [chat_line("a")]))
        assert failed["status"] == "failed"
        assert failed["errors"]["data"][0]["code"] == "server_error"


async def test_a_full_disk_is_waited_for(
    serve: Serve, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 3
    append = BatchJournal.append

    def fail(self: BatchJournal, added: Any) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("no space left on device")
        append(self, added)

    monkeypatch.setattr(BatchJournal, "append", fail)
    async with serve() as client:
        done = await wait_for(client, await created(client, [chat_line("a"), chat_line("b")]))
        assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


async def test_a_frontend_ends_after_its_results_are_written(
    serve: Serve, pool: FakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also if the disk is slow, and the lines have just ended."""
    append = BatchJournal.append
    writing, may_write = threading.Event(), threading.Event()

    def wait(self: BatchJournal, added: Any) -> None:
        writing.set()
        assert may_write.wait(20)
        append(self, added)

    monkeypatch.setattr(BatchJournal, "append", wait)
    monkeypatch.setattr(line_runs, "FLUSH_S", 60)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(serve())
        batch_id = await created(client, [chat_line("a")])
        assert await asyncio.to_thread(writing.wait, 20)
        ending = asyncio.create_task(stack.pop_all().aclose())
        await asyncio.wait([ending], timeout=0.3)
        assert not ending.done()
        may_write.set()
        await ending
    (journal,) = await asyncio.to_thread(lambda: list(tmp_path.glob(f"**/{batch_id}")))
    assert [each.number for each in results(journal)] == [1]


# The store


async def new_batch(store: BatchStore, tenant: str = "") -> str:
    return (await store.create(new_batch_id(), tenant, OPTIONS, 3600.0)).batch_id


async def test_one_frontend_owns_a_batch(store_url: str) -> None:
    database = Database(store_url)
    store = BatchStore(database, "v", 1e6)
    owners = [BatchOwnership(database, "v", name) for name in ("a", "b", "c")]
    ids = {await new_batch(store) for _ in range(6)}
    claims = await asyncio.gather(*(each.claim(8, 5.0, lambda found: True) for each in owners))
    taken = [found.batch_id for claim in claims for found in claim]
    assert sorted(taken) == sorted(ids)
    owner = next(each for each, claim in zip(owners, claims, strict=True) if claim)
    other = next(each for each in owners if each is not owner)
    mine = next(claim for claim in claims if claim)[0].batch_id
    assert await owner.store_progress(mine, Progress(1, 2, 3, 4, 5, 6))
    assert not await other.store_progress(mine, Progress(9, 9, 9, 9, 9, 9))
    assert (await store.get("", mine)).progress == Progress(1, 2, 3, 4, 5, 6)
    assert mine in await owner.renew({mine: 7})
    assert await other.renew({mine: 7}) == {}
    # The other frontends' lines count for the room of this one.
    assert (await other.others(5.0))[1] == 7
    await owner.release(mine)
    (again,) = await other.claim(8, 5.0, lambda found: True)
    assert (again.batch_id, again.runs, again.fruitless) == (mine, 2, 0)
    (stale,) = [
        found
        for found in await owner.claim(8, -1.0, lambda found: found.batch_id == mine)
        if found.batch_id == mine
    ]
    assert (stale.runs, stale.fruitless) == (3, 1)
    database.close()


async def test_claims_leave_what_cannot_be_run(store_url: str) -> None:
    database = Database(store_url)
    store = BatchStore(database, "v", 1e6)
    ids = [await new_batch(store) for _ in range(3)]
    owner = BatchOwnership(database, "v", "a")
    (found,) = await owner.claim(8, 5.0, lambda found: found.batch_id == ids[1])
    assert found.batch_id == ids[1]
    (found,) = await owner.claim(1, 5.0, lambda found: True)
    assert found.batch_id == ids[0]  # the oldest
    assert await BatchOwnership(database, "w", "b").claim(8, -1.0, lambda found: True) == []
    with pytest.raises(BatchNotFound):
        await BatchStore(database, "w", 1e6).get("", ids[0])
    assert not await owner.move(ids[0], IN_PROGRESS, "completed")
    assert (await store.get("", ids[0])).status == "validating"
    database.close()


# The journal


def result(number: int, text: str = "{}") -> LineResult:
    return LineResult(number, True, (1, 0, 2, 0), text)


def test_a_torn_line_is_no_result(tmp_path: Path) -> None:
    first = BatchJournal(tmp_path, 1)
    first.append([result(1), result(2)])
    first.close()
    whole = (tmp_path / "000001").read_bytes()
    second = BatchJournal(tmp_path, 2)
    for cut in range(1, len(whole)):
        (tmp_path / "000001").write_bytes(whole[:-cut])
        numbers, progress = second.known()
        assert numbers == ({1} if len(whole) - cut >= len(whole) // 2 else set())
        assert progress.completed == len(numbers)
    second.append([result(2), result(1)])
    assert second.known()[0] == {1, 2}
    second.close()


def test_a_full_disk_tears_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before the disk was full, and what is written later, is read."""
    journal = BatchJournal(tmp_path, 1)
    journal.append([result(1)])

    class Full:
        """Takes some bytes, then none."""

        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 40

        def write(self, data: Any) -> int:
            if not self.room:
                raise OSError("no space left on device")
            taken: int = self.file.write(data[: self.room])
            self.room -= taken
            return taken

        def fileno(self) -> int:
            number: int = self.file.fileno()
            return number

    file = journal._file
    monkeypatch.setattr(journal, "_file", Full(file))
    with pytest.raises(OSError, match="no space"):
        journal.append([result(2), result(3, '{"a": 1, "b": {}}'), result(4)])
    monkeypatch.setattr(journal, "_file", file)
    journal.append([result(2), result(3, '{"a": 1, "b": {}}'), result(4)])
    journal.close()
    found = {each.number: each.text for each in results(tmp_path)}
    assert found == {1: "{}", 2: "{}", 3: '{"a": 1, "b": {}}', 4: "{}"}


def test_the_first_result_of_a_line_counts(tmp_path: Path) -> None:
    first, second = BatchJournal(tmp_path, 1), BatchJournal(tmp_path, 2)
    first.append([result(1, '{"of": 1}')])
    second.append([result(1, '{"of": 2}'), result(2, '{"of":\n2}')])
    first.append([result(2, '{"of": 1}')])  # of a frontend that only seemed dead
    first.close()
    second.close()
    found = {each.number: json.loads(each.text)["of"] for each in results(tmp_path)}
    assert found == {1: 1, 2: 1}
    assert second.known() == ({1, 2}, Progress(2, 0, 2, 0, 4, 0))
