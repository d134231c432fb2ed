"""Streams whose clients read late, or never: what the metrics say meanwhile and afterwards."""

import asyncio
import json
from typing import Any

import pytest
from quart import Quart

from tests.frontend.asgi import Exchange
from tests.frontend.asking import ANSWER, numbers
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

PAUSE_S = 0.6
LABELS = '{engine="",model_name="smol"}'


class PausedExchange(Exchange):
    """Its client reads nothing from the first part of the body on, until `reads` is set."""

    def __init__(self, app: Quart, body: dict[str, Any]) -> None:
        self.reads = asyncio.Event()
        content = {"content-type": "application/json"}
        super().__init__(app, "/v1/completions", json.dumps(body).encode(), content)

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            await self.reads.wait()
        await super()._send(message)


async def metrics(app: Quart) -> dict[str, float]:
    text = await (await app.test_client().get("/metrics")).get_data(as_text=True)
    # Whatever engine the fake pool names.
    return {
        name.partition("{")[0]: value
        for name, value in numbers(text).items()
        if 'engine=""' not in name and "le=" not in name and "finished_reason" not in name
    }


async def until(app: Quart, name: str, value: float) -> dict[str, float]:
    for _ in range(500):
        if (found := await metrics(app)).get(name, 0) >= value:
            return await metrics(app)  # it is not read at one moment
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} stays at {found.get(name)}, not {value}")


@pytest.mark.parametrize("stop", [None, "Paris"])
async def test_tokens_count_when_they_come(
    make_app: MAKE_APP, pool: FakePool, stop: str | None
) -> None:
    app = make_app()
    fields = {"prompt": "Hello", "stream": True, "max_tokens": 100, "stop": stop}
    exchange = PausedExchange(app, fields)
    found = await until(app, "headrace:e2e_request_latency_seconds_count", 1)
    assert found["headrace:generation_tokens_total"] > 3
    if stop is not None:
        assert pool.streams[0].cancelled, "a stop string frees the worker at once"
    await asyncio.sleep(PAUSE_S)
    exchange.reads.set()
    await exchange.finish()
    text = b"".join(exchange.chunks).decode()
    assert text.endswith("data: [DONE]\n\n")
    found = await metrics(app)
    for name in ("inter_token_latency", "request_decode_time", "e2e_request_latency"):
        assert found[f"headrace:{name}_seconds_sum"] < PAUSE_S / 2, name
    assert found["headrace:stream_client_wait_seconds_sum"] >= PAUSE_S * 0.9
    assert found["headrace:stream_client_wait_seconds_count"] == 1
    assert found["headrace:generation_tokens_unread_total"] == 0


async def test_tokens_that_the_client_left_unread_are_counted(make_app: MAKE_APP) -> None:
    app = make_app()
    exchange = PausedExchange(app, {"prompt": "Hello", "stream": True, "max_tokens": 100})
    found = await until(app, "headrace:e2e_request_latency_seconds_count", 1)
    made = found["headrace:generation_tokens_total"]
    await exchange.disconnect()
    unread = (await metrics(app))["headrace:generation_tokens_unread_total"]
    assert 0 < unread < made


async def test_client_that_reads_at_once_makes_nothing_wait(make_app: MAKE_APP) -> None:
    app = make_app()
    exchange = PausedExchange(app, {"prompt": "Hello", "stream": True, "max_tokens": 100})
    exchange.reads.set()
    await exchange.finish()
    found = await metrics(app)
    assert found["headrace:stream_client_wait_seconds_sum"] < 0.1
    assert found["headrace:generation_tokens_unread_total"] == 0


async def test_usage_in_the_events_is_that_of_their_texts(make_app: MAKE_APP) -> None:
    """Tokens that have come but are in no event yet must not count."""
    app = make_app()
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": "Hello", "stream": True, "max_tokens": 100, "stream_options": options}
    exchange = PausedExchange(app, body)
    await until(app, "headrace:e2e_request_latency_seconds_count", 1)
    exchange.reads.set()
    await exchange.finish()
    lines = b"".join(exchange.chunks).decode().strip().split("\n\n")[:-1]
    found = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert "".join(each["choices"][0]["text"] for each in found if each["choices"]) == ANSWER
    counts = [each["usage"]["completion_tokens"] for each in found]
    assert counts == [*range(1, len(counts)), counts[-2]]
