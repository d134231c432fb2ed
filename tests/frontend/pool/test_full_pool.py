"""Requests that are refused before they are looked at, because all workers are full."""

import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.pool.interface import PoolBusy
from headrace.frontend.process.drain import Drain
from tests.frontend.asgi import Exchange
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

PATHS = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/invocations",
    "/v1/messages",
)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


def bodies(path: str) -> dict[str, Any]:
    """One that is taken by the route, as far as it is asked for here."""
    chats = {**CHAT, "messages": [CHAT["messages"]]}
    special: dict[str, Any] = {
        "/v1/completions": {"prompt": "a"},
        "/v1/chat/completions/batch": chats,
    }
    return {"model": "smol", **special.get(path, CHAT)}


@pytest.mark.parametrize("path", PATHS)
async def test_early_refusal_is_the_same_as_that_of_a_worker(
    client: Client, pool: FakePool, path: str
) -> None:
    """The bodies are no requests: nobody looks at them."""
    headers = {"X-Request-Id": "r-1"}
    pool.failure = PoolBusy("all are full", retry_after_s=2.5)
    late = await client.post(path, json=bodies(path), headers=headers)
    asked = len(pool.requests)
    assert asked
    pool.busy = PoolBusy("all are full", retry_after_s=2.5)
    early = await client.post(path, data=b"{", headers=headers)
    assert early.status_code == late.status_code == 429
    assert await early.get_json() == await late.get_json()
    assert dict(early.headers) == dict(late.headers)
    assert early.headers["Retry-After"] == "3"
    assert len(pool.requests) == asked


async def test_early_refusals_are_counted_like_the_others(client: Client, pool: FakePool) -> None:
    pool.busy = PoolBusy("all are full")
    for _ in range(3):
        await client.post("/v1/completions", json={"prompt": "a"})
    text = await (await client.get("/metrics")).get_data(as_text=True)
    assert 'headrace:requests_refused_total{reason="busy"} 3.0' in text
    labels = 'handler="/v1/completions",method="POST",status="4xx"'
    assert f"http_requests_total{{{labels}}} 3.0" in text


async def test_only_requests_for_text_are_refused(client: Client, pool: FakePool) -> None:
    pool.busy = PoolBusy("all are full")
    assert (await client.get("/v1/models")).status_code == 200
    assert (await client.post("/tokenize", json={"prompt": "a"})).status_code == 200
    assert (await client.get("/v1/completions")).status_code == 405
    assert (await client.post("/v1/completions/", json={})).status_code == 404


async def test_a_bad_address_and_a_stopping_server_are_told_first(
    make_app: MAKE_APP, pool: FakePool
) -> None:
    pool.busy = PoolBusy("all are full")
    drain = Drain()
    client = make_app(drain=drain).test_client()
    bad = await client.post("/v1/completions", json={"prompt": "a"}, headers={"Host": "a/b"})
    assert bad.status_code == 400
    await drain.finish(0.0)
    assert (await client.post("/v1/completions", json={"prompt": "a"})).status_code == 503


async def test_under_a_prefix_too(make_app: MAKE_APP, pool: FakePool) -> None:
    pool.busy = PoolBusy("all are full")
    client = make_app(root_path="/api").test_client()
    for path in ("/api/v1/completions", "/v1/completions"):
        assert (await client.post(path, json={"prompt": "a"})).status_code == 429


async def test_the_body_is_read_before_the_answer_is_sent(
    make_app: MAKE_APP, pool: FakePool
) -> None:
    """Else closing the socket could reset it before the client has read the answer."""
    pool.busy = PoolBusy("all are full")
    headers = {"content-type": "application/json", "content-length": "2"}
    exchange = Exchange(make_app(), "/v1/completions", b"{}", headers)
    await exchange.finish()
    assert exchange.status == 429
    assert json.loads(b"".join(exchange.chunks))["error"]["code"] == 429


async def test_a_body_that_does_not_come_is_not_waited_for_long(
    make_app: MAKE_APP, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.frontend.middleware.request_scope.DRAIN_TIMEOUT_S", 0.05)
    pool.busy = PoolBusy("all are full")
    headers = {"content-type": "application/json", "content-length": "9"}
    exchange = Exchange(make_app(), "/v1/completions", b"", headers, has_more=True)
    await exchange.finish()
    assert exchange.status == 429
