"""Background responses belong to the key that has created them, whichever frontend runs them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace.frontend.access.key_table import KeyTable
from headrace.frontend.responses.execution import response_runner
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.security.keys_of_tenants import ANN, ANN_TOO, BOB, KeyClient, api_key, key_table

pytestmark = pytest.mark.usefixtures("quick")


async def background(client: KeyClient) -> str:
    response = await client.post("/v1/responses", json={"input": "Hello", "background": True})
    assert response.status_code == 200, await response.get_data(as_text=True)
    return str((await response.get_json())["id"])


async def ended(client: KeyClient, response_id: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            found = await (await client.get(f"/v1/responses/{response_id}")).get_json()
            if found["status"] not in ("queued", "in_progress"):
                return dict(found)
            await asyncio.sleep(0.02)


async def test_another_frontend_resumes_it_as_its_tenant(
    make_app: MAKE_APP, pool: FakePool, store_url: str
) -> None:
    """Also where the limit of its key is reached meanwhile: it was taken once."""
    settings: dict[str, Any] = {"response_store_url": store_url}
    keys = KeyTable([api_key(ANN, "ann", limits={"requests_per_minute": 1, "max_requests": 1})])
    pool.hold_after = 0
    async with make_app(keys=keys, **settings).test_app() as app:
        response_id = await background(KeyClient(app.test_client(), ANN))
        await pool.wait_for_streams(1)
    pool.hold_after = None
    async with make_app(keys=keys, **settings).test_app() as app:
        found = await ended(KeyClient(app.test_client(), ANN), response_id)
    assert found["status"] == "completed"
    assert {(each.tenant, each.cache_salt) for each in pool.requests} == {("ann", "ann\0")}
    assert len(pool.requests) == 2


async def test_one_whose_key_was_removed_is_not_resumed(
    make_app: MAKE_APP, pool: FakePool, tmp_path: Path
) -> None:
    keys = [api_key(ANN, "ann"), api_key(ANN_TOO, "ann-too", "ann")]
    pool.hold_after = 0
    async with make_app(keys=KeyTable(keys)).test_app() as app:
        response_id = await background(KeyClient(app.test_client(), ANN))
        await pool.wait_for_streams(1)
    pool.hold_after = None
    async with make_app(keys=KeyTable(keys[1:])).test_app() as app:
        found = await ended(KeyClient(app.test_client(), ANN_TOO), response_id)
    assert found["status"] == "failed"
    assert "not valid any more" in found["error"]["message"]
    assert len(pool.requests) == 1


async def test_another_tenant_cannot_follow_one_that_runs(
    make_app: MAKE_APP, pool: FakePool
) -> None:
    """In the frontend that runs it, which has its events at hand."""
    pool.hold_after = 1
    async with make_app(keys=key_table()).test_app() as app:
        ann, bob = (KeyClient(app.test_client(), key) for key in (ANN, BOB))
        response_id = await background(ann)
        await pool.wait_for_streams(1)
        for query in ("", "?stream=true", "?stream=true&starting_after=0"):
            assert (await bob.get(f"/v1/responses/{response_id}{query}")).status_code == 404
        assert (await bob.post(f"/v1/responses/{response_id}/cancel")).status_code == 404
        assert (await bob.delete(f"/v1/responses/{response_id}")).status_code == 404
        pool.release.set()
        assert (await ended(ann, response_id))["status"] == "completed"


async def test_background_responses_are_bounded_for_each_tenant(
    make_app: MAKE_APP, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_runner, "MAX_BACKGROUND", 1)
    pool.hold_after = 0
    async with make_app(keys=key_table()).test_app() as app:
        ann, bob = (KeyClient(app.test_client(), key) for key in (ANN, BOB))
        await background(ann)
        asked = {"input": "Hello", "background": True}
        assert (await ann.post("/v1/responses", json=asked)).status_code == 429
        await background(bob)
        pool.release.set()
