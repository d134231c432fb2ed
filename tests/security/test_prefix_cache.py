"""A prompt that another tenant has sent is not answered faster (CVE-2025-46570,
GHSA-4qjh-9fv9-r85r).

What two requests share, blocks, beginnings of texts and the worker that has them, is found under a
name that holds the tenant.
"""

from typing import Any

import pytest

from headrace.frontend.generation import prompts
from headrace.frontend.pool.routing import _prefix_key
from headrace.protocol.to_worker import Generate
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.security.keys_of_tenants import ANN, ANN_TOO, BOB, KeyClient, key_table

TEXT = "word " * 300


async def sent(make_app: MAKE_APP, pool: FakePool, **settings: Any) -> dict[str, Generate]:
    """The same prompt with each key, and with each key's own salts."""
    found = {}
    async with make_app(keys=key_table(), **settings).test_app() as app:
        for name, key in (("ann", ANN), ("ann too", ANN_TOO), ("bob", BOB)):
            for salt in (None, "salt", "ann", "bob"):
                body = {"prompt": TEXT, "max_tokens": 1}
                body |= {} if salt is None else {"cache_salt": salt}
                client = KeyClient(app.test_client(), key)
                response = await client.post("/v1/completions", json=body)
                assert response.status_code == 200, (salt, await response.get_data(as_text=True))
                found[name if salt is None else f"{name} {salt}"] = pool.requests[-1]
    return found


async def test_tenants_share_no_blocks_and_no_worker(make_app: MAKE_APP, pool: FakePool) -> None:
    found = await sent(make_app, pool)
    anns = {each.cache_salt for name, each in found.items() if name.startswith("ann")}
    bobs = {each.cache_salt for name, each in found.items() if name.startswith("bob")}
    assert not anns & bobs
    assert found["ann"].cache_salt == found["ann too"].cache_salt
    assert len(anns) == len(bobs) == 4
    assert _prefix_key(found["ann"]) is not None
    assert _prefix_key(found["ann"]) == _prefix_key(found["ann too"])
    assert not {_prefix_key(found["ann"])} & {
        _prefix_key(found[name]) for name in found if "b" in name
    }


async def test_tenants_share_blocks_where_the_operator_says_so(
    make_app: MAKE_APP, pool: FakePool
) -> None:
    found = await sent(make_app, pool, share_prefix_cache=True)
    assert found["ann"].cache_salt == found["bob"].cache_salt == ""
    assert found["ann salt"].cache_salt == found["bob salt"].cache_salt == "salt"


async def test_beginnings_of_texts_are_tokenized_for_each_tenant(
    make_app: MAKE_APP, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes: list[str | None] = []
    original = prompts._text_prompts

    async def note(*given: Any) -> Any:
        scopes.append(given[-1])
        return await original(*given)

    monkeypatch.setattr(prompts, "_text_prompts", note)
    await sent(make_app, pool)
    assert len(set(scopes)) == 8


async def test_without_keys_the_salt_is_the_requests(make_app: MAKE_APP, pool: FakePool) -> None:
    async with make_app().test_app() as app:
        body = {"prompt": "x", "max_tokens": 1, "cache_salt": "salt"}
        await app.test_client().post("/v1/completions", json=body)
    assert pool.requests[-1].cache_salt == "salt"
