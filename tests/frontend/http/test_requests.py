"""What holds for every request: its id, its end, its share of the load."""

import asyncio
import json
from typing import Any

import pytest
from quart import Quart
from quart.testing.connections import TestHTTPConnection as Connection
from quart.typing import TestClientProtocol as Client

from tests.frontend.asgi import Exchange, post
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]


async def load(app: Quart) -> int:
    found: int = (await (await app.test_client().get("/load")).get_json())["server_load"]
    return found


@pytest.mark.parametrize(
    ("path", "body", "texts"),
    [
        (CHAT, {"messages": MESSAGES, "stream": True}, 1),
        (CHAT, {"messages": MESSAGES}, 1),
        (CHAT, {"messages": MESSAGES, "n": 3, "temperature": 1}, 3),
        (CHAT, {"messages": MESSAGES, "n": 3, "temperature": 1, "stream": True}, 3),
        (COMPLETIONS, {"prompt": ["a", "b"]}, 2),
        (COMPLETIONS, {"prompt": "a", "stream": True}, 1),
    ],
)
async def test_a_client_that_leaves_frees_its_slots(
    make_app: MAKE_APP, pool: FakePool, path: str, body: dict[str, Any], texts: int
) -> None:
    pool.hold_after = 3
    app = make_app()
    exchange = post(app, path, body)
    if body.get("stream"):
        await exchange.wait_for_chunks(3)
    else:
        await pool.wait_for_streams(texts)
    assert await load(app) == 1
    await exchange.disconnect()
    assert [stream.cancelled for stream in pool.streams] == [True] * texts
    assert await load(app) == 0


async def test_a_client_that_leaves_before_the_first_output_frees_its_slot(
    make_app: MAKE_APP, pool: FakePool
) -> None:
    pool.hold_after = 0
    exchange = post(make_app(), CHAT, {"messages": MESSAGES, "stream": True})
    await pool.wait_for_streams(1)
    await exchange.disconnect()
    assert exchange.status is None
    assert pool.streams[0].cancelled


async def test_a_client_that_leaves_while_the_headers_are_sent_frees_its_slot(
    make_app: MAKE_APP, pool: FakePool
) -> None:
    blocked = asyncio.Event()

    class NeverSent(Exchange):
        async def _send(self, message: dict[str, Any]) -> None:
            blocked.set()
            await asyncio.Event().wait()

    body = json.dumps({"messages": MESSAGES, "stream": True}).encode()
    exchange = NeverSent(make_app(), CHAT, body, {"content-type": "application/json"})
    await asyncio.wait_for(blocked.wait(), 5)
    await exchange.disconnect()
    assert pool.streams[0].cancelled


async def test_ended_requests_are_not_cancelled(make_app: MAKE_APP, pool: FakePool) -> None:
    exchange = post(make_app(), CHAT, {"messages": MESSAGES, "stream": True})
    await exchange.finish()
    assert exchange.chunks[-1].endswith(b"data: [DONE]\n\n")
    assert not pool.streams[0].cancelled


async def test_streams_have_their_headers(make_app: MAKE_APP) -> None:
    exchange = post(make_app(), CHAT, {"messages": MESSAGES, "stream": True})
    await exchange.finish()
    assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert exchange.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/health", "/nope", "/v1/models", "/metrics", CHAT])
async def test_every_answer_has_a_request_id(client: Client, path: str) -> None:
    first = await client.get(path)
    second = await client.get(path)
    ids = {first.headers["x-request-id"], second.headers["x-request-id"]}
    assert len(ids) == 2
    echoed = await client.get(path, headers={"x-request-id": "my id-1"})
    assert echoed.headers["x-request-id"] == "my id-1"


@pytest.mark.parametrize("sent", ["", "x" * 129, "tab\there", "é"])
async def test_ids_that_are_no_ids_are_replaced(client: Client, sent: str) -> None:
    response = await client.get("/health", headers={"x-request-id": sent})
    assert response.headers["x-request-id"] != sent


def status_of(connection: Connection) -> int | None:
    return connection.status_code


async def test_a_refused_body_is_read_to_its_end_before_the_answer(make_app: MAKE_APP) -> None:
    """Closing a connection with unread bytes would reset it, and the answer could be lost."""
    connection = (
        make_app(max_body_bytes=10)
        .test_client()
        .request(
            CHAT,
            method="POST",
            headers={"content-type": "application/json", "content-length": "30"},
        )
    )
    assert isinstance(connection, Connection)
    async with connection:
        await connection.send(b"x" * 20)
        for _ in range(20):
            await asyncio.sleep(0)
        assert status_of(connection) is None
        await connection.send(b"x" * 10)
        await connection.send_complete()
    assert status_of(connection) == 413


@pytest.mark.parametrize(
    ("path", "method", "status", "allow"),
    [
        ("/nope", "GET", 404, None),
        ("/health/", "GET", 404, None),
        (CHAT, "GET", 405, "POST"),
        (CHAT, "OPTIONS", 405, "POST"),
        ("/health", "POST", 405, "GET, HEAD"),
        ("/docs/assets/../../app.py", "GET", 404, None),
        ("/v1/models/nope", "GET", 404, None),
    ],
)
async def test_paths_and_methods_that_are_not_there(
    client: Client, path: str, method: str, status: int, allow: str | None
) -> None:
    response = await client.open(path, method=method)  # type: ignore[call-arg]
    assert response.status_code == status
    assert set(await response.get_json()) in ({"detail"}, {"error"})
    if allow:
        assert set(response.headers["Allow"].split(", ")) == set(allow.split(", "))
