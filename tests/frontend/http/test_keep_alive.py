"""Streams of all APIs while there is nothing to say."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from quart import Quart

from headrace.frontend.pool.interface import PoolUnavailable
from headrace.frontend.streaming import KEEP_ALIVE
from tests.frontend.asgi import HANG_S, Exchange, post
from tests.frontend.asking import ANSWER, QUESTION
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

INTERVAL_S = 0.05
PING = 'event: ping\ndata: {"type":"ping"}\n\n'
# What each API says while it has nothing to say.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": ({"messages": QUESTION}, KEEP_ALIVE),
    "/v1/completions": ({"prompt": "Hello"}, KEEP_ALIVE),
    "/v1/messages": ({"model": "smol", "messages": QUESTION, "max_tokens": 50}, PING),
    "/v1/responses": ({"input": "Hello"}, KEEP_ALIVE),
    "/invocations": ({"messages": QUESTION}, KEEP_ALIVE),
}
each_api = pytest.mark.parametrize("path", CASES)


@pytest.fixture
def app(make_app: MAKE_APP) -> Quart:
    return make_app(sse_keep_alive_interval_s=INTERVAL_S)


def ask(app: Quart, path: str, **fields: Any) -> Exchange:
    return post(app, path, {**CASES[path][0], "stream": True, **fields})


async def told(exchange: Exchange, text: str, count: int) -> None:
    """Wait until a text has been sent so often."""
    async with asyncio.timeout(HANG_S):
        while b"".join(exchange.chunks).decode().count(text) < count:
            await exchange.wait_for_chunks(len(exchange.chunks) + 1)


def _is_cancelled(pool: FakePool) -> bool:
    return pool.streams[0].cancelled


@each_api
async def test_the_stream_begins_with_the_first_silence(
    app: Quart, pool: FakePool, path: str
) -> None:
    pool.hold_after = 0
    async with app.test_app():
        exchange = ask(app, path)
        await told(exchange, CASES[path][1], 2)
        assert exchange.status == 200
        assert exchange.headers["content-type"].startswith("text/event-stream")
        assert "x-request-id" in exchange.headers
        pool.release.set()
        await exchange.finish()
    answer = b"".join(exchange.chunks).decode()
    texts = [event for event in answer.split("\n\n") if "Paris" in event]
    assert texts
    assert "error" not in answer.replace('"error":null', "")


@each_api
async def test_silence_in_the_middle(app: Quart, pool: FakePool, path: str) -> None:
    pool.hold_after = 3
    async with app.test_app():
        exchange = ask(app, path)
        await told(exchange, CASES[path][1], 2)
        assert "capital" in b"".join(exchange.chunks).decode()
        pool.release.set()
        await exchange.finish()
    assert "Paris" in b"".join(exchange.chunks).decode()


@each_api
async def test_what_fails_later_is_one_event(app: Quart, pool: FakePool, path: str) -> None:
    pool.hold_after, pool.fail_after = 0, 1
    pool.failure = PoolUnavailable("no worker")
    async with app.test_app():
        exchange = ask(app, path)
        await told(exchange, CASES[path][1], 1)
        pool.release.set()
        await exchange.finish()
    answer = b"".join(exchange.chunks).decode()
    assert exchange.status == 200
    if path == "/v1/responses":
        assert answer.count("event: response.failed") == 1
    elif path == "/v1/messages":
        assert answer.count("event: error") == 1
        assert json.loads(answer.rpartition("data: ")[2])["type"] == "error"
    else:
        assert answer.count('data: {"error"') == 1
        assert answer.endswith("data: [DONE]\n\n")


@each_api
async def test_what_fails_sooner_is_an_http_error(
    make_app: MAKE_APP, pool: FakePool, path: str
) -> None:
    app = make_app(sse_keep_alive_interval_s=10.0)
    pool.failure = PoolUnavailable("no worker")
    async with app.test_app():
        exchange = ask(app, path)
        await exchange.finish()
    assert exchange.status == 503
    assert exchange.headers["content-type"] == "application/json"


@each_api
async def test_a_client_that_leaves_a_silent_stream_frees_its_request(
    app: Quart, pool: FakePool, path: str
) -> None:
    pool.hold_after = 0
    async with app.test_app():
        exchange = ask(app, path)
        await told(exchange, CASES[path][1], 1)
        assert not _is_cancelled(pool)
        await exchange.disconnect()
        for _ in range(100):  # a response's work ends a little later
            if _is_cancelled(pool):
                break
            await asyncio.sleep(0.01)
        assert _is_cancelled(pool)


@each_api
async def test_zero_is_never(make_app: MAKE_APP, pool: FakePool, path: str) -> None:
    app = make_app(sse_keep_alive_interval_s=0)
    pool.hold_after = 0
    async with app.test_app():
        exchange = ask(app, path)
        await pool.wait_for_streams(1)
        await asyncio.sleep(4 * INTERVAL_S)
        assert not exchange.chunks
        pool.release.set()
        await exchange.finish()
    answer = b"".join(exchange.chunks).decode()
    assert exchange.status == 200
    assert CASES[path][1] not in answer


async def test_a_deadline_within_the_silence_is_one_event(app: Quart, pool: FakePool) -> None:
    pool.hold_after = 0
    headers = {"content-type": "application/json", "x-request-timeout-ms": "200"}
    body = json.dumps({"messages": QUESTION, "stream": True}).encode()
    exchange = Exchange(app, "/v1/chat/completions", body, headers)
    await exchange.finish()
    *silence, error, done, rest = b"".join(exchange.chunks).decode().split("\n\n")
    assert silence
    assert set(silence) == {KEEP_ALIVE.strip()}
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == 504
    assert (done, rest) == ("data: [DONE]", "")


async def test_several_choices(app: Quart, pool: FakePool) -> None:
    pool.hold_after = 2
    exchange = ask(app, "/v1/chat/completions", n=3, temperature=1)
    await told(exchange, KEEP_ALIVE, 1)
    pool.release.set()
    await exchange.finish()
    events = b"".join(exchange.chunks).decode().replace(KEEP_ALIVE, "").split("\n\n")[:-2]
    for index in range(3):
        choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
        own = [each["delta"].get("content", "") for each in choices if each["index"] == index]
        assert "".join(own) == ANSWER


async def test_a_response_that_is_followed(app: Quart, pool: FakePool) -> None:
    pool.hold_after = 3
    async with app.test_app():
        exchange = ask(app, "/v1/responses", background=True)
        await told(exchange, KEEP_ALIVE, 2)
        pool.release.set()
        await exchange.finish()
    answer = b"".join(exchange.chunks).decode()
    assert answer.rstrip().rpartition("event: ")[2].startswith("response.completed")


# What the companies' own clients make of it.


@pytest.fixture
async def http(app: Quart, pool: FakePool) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application, whose workers are silent for some intervals."""
    asyncio.get_running_loop().call_later(4 * INTERVAL_S, pool.release.set)
    transport = httpx2.ASGITransport(app)  # type: ignore[arg-type]
    async with app.test_app(), httpx2.AsyncClient(transport=transport) as client:
        yield client


@pytest.mark.parametrize("held", [0, 3])
async def test_openais_client(http: httpx2.AsyncClient, pool: FakePool, held: int) -> None:
    pool.hold_after = held
    client = AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http)
    messages: Any = QUESTION
    async with client.chat.completions.stream(model="smol", messages=messages) as events:
        (choice,) = (await events.get_final_completion()).choices
    assert choice.message.content == ANSWER


@pytest.mark.parametrize("held", [0, 3])
async def test_openais_client_of_responses(
    http: httpx2.AsyncClient, pool: FakePool, held: int
) -> None:
    pool.hold_after = held
    client = AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http)
    async with client.responses.stream(model="smol", input="Hello") as events:
        assert (await events.get_final_response()).output_text == ANSWER


@pytest.mark.parametrize("held", [0, 3])
async def test_anthropics_client(http: httpx2.AsyncClient, pool: FakePool, held: int) -> None:
    pool.hold_after = held
    client = AsyncAnthropic(base_url="http://test", api_key="none", http_client=http)
    asked: Any = {"model": "smol", "messages": QUESTION, "max_tokens": 50}
    async with client.messages.stream(**asked) as stream:
        message = await stream.get_final_message()
    assert [block.model_dump()["text"] for block in message.content] == [ANSWER]
