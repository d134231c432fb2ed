"""Batches run as the key that has created them: its tenant, its models, its limits."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.frontend.access.key_table import KeyTable
from headrace.frontend.batches import batch_runner, batch_store
from headrace.frontend.batches.batch_store import BatchStore
from headrace.frontend.batches.ownership import BatchOwnership
from headrace.frontend.store.database import Database
from tests.frontend.batches.batch_asking import (
    batch,
    chat_line,
    content,
    create,
    created,
    uploaded,
    wait_for,
)
from tests.frontend.batches.test_takeovers import new_batch
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.security.keys_of_tenants import ANN, ANN_TOO, BOB, KeyClient, api_key, key_table


def table(*keys: Any) -> KeyTable:
    """A table whose keys a test can change, as a file's."""
    made = KeyTable((), is_open=False)
    made.replace_file_keys(keys)
    return made


async def test_lines_run_as_their_tenant_also_in_another_frontend(
    make_app: MAKE_APP, pool: FakePool, store_url: str, tmp_path: Path
) -> None:
    settings = {"response_store_url": store_url, "file_dir": tmp_path / "kept"}
    pool.hold_after = 0
    async with make_app(keys=key_table(), **settings).test_app() as app:
        lines = [chat_line(f"line-{n}") for n in range(6)]
        batch_id = await created(KeyClient(app.test_client(), ANN), lines)
        await pool.wait_for_streams(4)
    pool.hold_after = None
    async with make_app(keys=key_table(), **settings).test_app() as app:
        ann, bob = (KeyClient(app.test_client(), key) for key in (ANN_TOO, BOB))
        done = await wait_for(ann, batch_id)
        assert done["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
        assert len(await content(ann, done["output_file_id"])) == 6
        hidden = await bob.get(f"/v1/files/{done['output_file_id']}/content")
        assert hidden.status_code == 404
    assert {(each.tenant, each.cache_salt) for each in pool.requests} == {("ann", "ann\0")}


async def test_a_batch_ends_when_its_key_is_removed(make_app: MAKE_APP, pool: FakePool) -> None:
    """What is done of it is kept for the other keys of the tenant."""
    keys = [api_key(ANN, "ann"), api_key(ANN_TOO, "ann-too", "ann")]
    known = table(*keys)
    pool.hold_after, pool.hold_from = 0, 2
    async with make_app(keys=known).test_app() as app:
        client = KeyClient(app.test_client(), ANN)
        batch_id = await created(client, [chat_line(f"line-{n}") for n in range(9)])
        await pool.wait_for_streams(4)
        done = {"completed": 0}
        async with asyncio.timeout(20):
            while done["completed"] < 2:
                done = (await batch(client, batch_id))["request_counts"]
                await asyncio.sleep(0.01)
        known.replace_file_keys(keys[1:])
        other = KeyClient(app.test_client(), ANN_TOO)
        ended = await wait_for(other, batch_id)
        assert ended["status"] == "failed"
        assert ended["errors"]["data"][0]["code"] == "invalid_api_key"
        assert ended["request_counts"] == {"total": 9, "completed": 2, "failed": 0}
        assert len(await content(other, ended["output_file_id"])) == 2
        count = len(pool.requests)
        await asyncio.sleep(0.2)
        assert len(pool.requests) == count


async def test_a_key_that_moves_to_another_tenant_takes_no_batches_along(
    make_app: MAKE_APP, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_runner, "MAX_RUNS", 0)
        patch.setattr(batch_runner.BatchRunner, "_may_claim", lambda *_: False)
        async with make_app(keys=table(api_key(ANN, "ann"))).test_app() as app:
            client = KeyClient(app.test_client(), ANN)
            file_id = await uploaded(client, [chat_line("a")])
            batch_id = (await (await create(client, file_id)).get_json())["id"]
    async with make_app(keys=table(api_key(ANN, "ann", "other"))).test_app() as app:
        await asyncio.sleep(0.3)
        assert (
            await KeyClient(app.test_client(), ANN).get(f"/v1/batches/{batch_id}")
        ).status_code == 404
    both = table(api_key(ANN, "ann", "other"), api_key(ANN_TOO, "ann-too", "ann"))
    async with make_app(keys=both).test_app() as app:
        ended = await wait_for(KeyClient(app.test_client(), ANN_TOO), batch_id)
        assert ended["errors"]["data"][0]["code"] == "invalid_api_key"


async def test_lines_leave_half_of_a_limit_to_other_requests(make_app: MAKE_APP) -> None:
    started = time.monotonic()

    def room() -> float:
        """How many more the limit has allowed since the start, and two."""
        return 2 + (time.monotonic() - started) * 20 / 60

    async with make_app(keys=key_table(requests_per_minute=20)).test_app() as app:
        ann, bob = (KeyClient(app.test_client(), key) for key in (ANN, BOB))
        batch_id = await created(ann, [chat_line(f"line-{n}") for n in range(30)])
        other = await created(bob, [chat_line(f"line-{n}") for n in range(5)])
        # A key that waits for its limit keeps no other key waiting.
        assert (await wait_for(bob, other))["request_counts"]["completed"] == 5
        done = {"completed": 0}
        async with asyncio.timeout(20):
            while done["completed"] < 10:
                done = (await batch(ann, batch_id))["request_counts"]
                await asyncio.sleep(0.01)
        assert done["completed"] <= 10 + room()
        assert done["failed"] == 0
        chat = chat_line("x")["body"]
        statuses = [
            (await ann.post("/v1/chat/completions", json=chat)).status_code for _ in range(15)
        ]
        assert 8 <= statuses.count(200) <= 10 + room()
        assert statuses[-1] == 429
        assert (await ann.post(f"/v1/batches/{batch_id}/cancel")).status_code == 200
        await wait_for(ann, batch_id)


async def test_lines_are_not_counted_at_once(make_app: MAKE_APP, pool: FakePool) -> None:
    pool.hold_after = 0
    async with make_app(keys=key_table(max_requests=1)).test_app() as app:
        client = KeyClient(app.test_client(), ANN)
        await created(client, [chat_line(f"line-{n}") for n in range(3)])
        await pool.wait_for_streams(3)
        pool.hold_after = None
        chat = chat_line("x")["body"]
        assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
        pool.release.set()


async def test_a_tenants_batches_do_not_fill_anothers_limit(
    make_app: MAKE_APP, monkeypatch: pytest.MonkeyPatch, pool: FakePool
) -> None:
    monkeypatch.setattr(batch_store, "MAX_ACTIVE", 1)
    pool.hold_after = 0
    async with make_app(keys=key_table()).test_app() as app:
        ann, bob = (KeyClient(app.test_client(), key) for key in (ANN, BOB))
        await created(ann, [chat_line("a")])
        assert (await create(ann, await uploaded(ann, [chat_line("b")]))).status_code == 429
        await created(bob, [chat_line("a")])
        pool.release.set()


async def test_a_tenant_without_a_batch_that_runs_has_one_in_any_case(
    make_app: MAKE_APP, monkeypatch: pytest.MonkeyPatch, pool: FakePool
) -> None:
    monkeypatch.setattr(batch_runner, "MAX_RUNS", 2)
    pool.hold_after, pool.held_tenant = 0, "ann"
    async with make_app(keys=key_table()).test_app() as app:
        ann, bob = (KeyClient(app.test_client(), key) for key in (ANN, BOB))
        for _ in range(4):
            await created(ann, [chat_line("a")])
        await pool.wait_for_streams(2)
        done = await wait_for(bob, await created(bob, [chat_line("b")]))
        assert done["request_counts"]["completed"] == 1
        pool.release.set()


async def later_batch(store: BatchStore, tenant: str) -> str:
    """Create a batch in a millisecond of its own, as the store's clock counts them."""
    await asyncio.sleep(0.003)
    return await new_batch(store, tenant)


async def test_claims_take_the_oldest_of_each_tenant_first(store_url: str) -> None:
    database = Database(store_url)
    store, owner = BatchStore(database, "v", 1e6), BatchOwnership(database, "v", "a")
    anns, bobs = [
        [await later_batch(store, tenant) for _ in range(count)]
        for tenant, count in (("ann", 5), ("bob", 2))
    ]
    claimed = await owner.claim(4, 5.0, lambda found: True)
    assert [each.batch_id for each in claimed] == [anns[0], bobs[0], anns[1], bobs[1]]
    assert await owner.claim(4, 5.0, lambda found: True, {"ann", "bob"}) == []
    database.close()
