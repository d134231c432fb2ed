"""What operators decide for all requests, as clients see it."""

from typing import Any

import pytest

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import ServingOptions
from tests.frontend.asking import ANSWER, QUESTION, ask, complete, events
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}},
    },
}


async def test_docs_can_be_left_out(make_app: MAKE_APP) -> None:
    client = make_app(disable_docs=True).test_client()
    for path in ("/docs", "/openapi.json", "/docs/assets/swagger-ui.css"):
        assert (await client.get(path)).status_code == 404
    assert (await make_app().test_client().get("/docs")).status_code == 200
    assert (await make_app().test_client().get("/openapi.json")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nope"])
async def test_too_many_headers_are_rejected(make_app: MAKE_APP, path: str) -> None:
    client = make_app(max_headers=20).test_client()
    few = {f"X-Header-{number}": "1" for number in range(10)}
    many = {f"X-Header-{number}": "1" for number in range(21)}
    assert (await client.get(path, headers=few)).status_code != 431
    response = await client.get(path, headers=many)
    assert response.status_code == 431
    error = (await response.get_json())["error"]
    assert (error["type"], error["code"]) == ("Request Header Fields Too Large", 431)
    assert "20" in error["message"]


async def test_too_long_headers_are_rejected(make_app: MAKE_APP) -> None:
    client = make_app(max_header_bytes=2000).test_client()
    assert (await client.get("/livez", headers={"X-Long": "1" * 1000})).status_code == 200
    response = await client.get("/livez", headers={"X-Long": "1" * 2000})
    assert response.status_code == 431
    assert "2000 bytes" in (await response.get_json())["error"]["message"]


@pytest.mark.parametrize(
    ("mode", "value", "shown"), [("none", None, None), ("custom", "fp_mine", "fp_mine")]
)
async def test_fingerprints(
    make_app: MAKE_APP, mode: str, value: str | None, shown: str | None
) -> None:
    client = make_app(fingerprint_mode=mode, fingerprint_value=value).test_client()
    for asked in (ask(client), complete(client, prompt="Hello")):
        _, body = await asked
        assert body["system_fingerprint"] == shown
    *_, last = await events(client, messages=QUESTION)
    assert last["system_fingerprint"] == shown
    _, body = await ask(make_app(fingerprint_mode="hash").test_client())
    assert body["system_fingerprint"].startswith("headrace-")


async def test_streams_have_the_operators_interval(make_app: MAKE_APP) -> None:
    client = make_app(serving=ServingOptions(stream_interval=3)).test_client()
    every = await events(make_app().test_client(), messages=QUESTION)
    third = await events(client, messages=QUESTION)
    assert 3 < len(third) < len(every) - 3
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in third]
    assert "".join(texts) == ANSWER
    own = await events(client, messages=QUESTION, stream_interval=1)
    assert len(own) == len(every)


@pytest.mark.parametrize(
    ("asked", "told"), [("xhigh", "[high True]"), ("low", "[none False]"), ("max", "[max True]")]
)
async def test_efforts_are_those_that_the_template_knows(
    make_app: MAKE_APP, asked: str, told: str
) -> None:
    serving = ServingOptions(
        reasoning_effort_map={"xhigh": "high", "low": "none"}, trust_request_chat_template=True
    )
    client = make_app(serving=serving).test_client()
    template = "[{{ reasoning_effort }} {{ enable_thinking }}]"
    _, body = await ask(
        client, reasoning_effort=asked, chat_template=template, return_prompt_text=True
    )
    assert body["prompt_text"] == told


@pytest.mark.parametrize(
    ("level", "strict", "grammar"),
    [
        ("auto", None, None),
        ("auto", True, "schema"),
        ("function", None, "names"),
        ("parameter", None, "schema"),
        ("parameter", False, "schema"),
    ],
)
async def test_calls_are_held_to_their_tools(
    make_app: MAKE_APP, pool: FakePool, level: str, strict: bool | None, grammar: str | None
) -> None:
    serving = ServingOptions(
        tool_strict_level=level,
        enable_auto_tool_choice=True,
        tool_call_parser="hermes",
    )
    client = make_app(serving=serving).test_client()
    tool = {**TOOL, "function": {**TOOL["function"], "strict": strict}}
    response, body = await ask(client, tools=[tool], tool_choice="auto")
    assert response.status_code == 200, body
    sent = pool.requests[-1].grammar
    if grammar is None:
        assert sent is None
    else:
        assert sent is not None
        assert "get_weather" in sent.text
        assert ("Rome" in sent.text) == (grammar == "schema")


async def test_times_are_reported_if_the_operator_says_so(
    make_app: MAKE_APP, text: ModelTokenizer
) -> None:
    client = make_app(serving=ServingOptions(enable_per_request_metrics=True)).test_client()
    for asked in (ask(client), complete(client, prompt="Hello")):
        _, body = await asked
        times = body["metrics"]
        assert times.keys() == {
            "time_to_first_token_ms",
            "generation_time_ms",
            "queue_time_ms",
            "mean_itl_ms",
            "tokens_per_second",
        }
        assert (times["queue_time_ms"], times["time_to_first_token_ms"]) == (500, 250)
        assert times["generation_time_ms"] > 0
        intervals = body["usage"]["completion_tokens"] - 1
        assert times["mean_itl_ms"] == pytest.approx(times["generation_time_ms"] / intervals)
        assert times["tokens_per_second"] > 0
    *_, last = await events(client, messages=QUESTION, stream_options={"include_usage": True})
    assert last["metrics"]["queue_time_ms"] == 500
    *_, last = await events(client, messages=QUESTION)
    assert "metrics" not in last
    response = await client.post("/v1/responses", json={"input": "Hello", "store": False})
    assert (await response.get_json())["metrics"]["queue_time_ms"] == 500
    _, body = await ask(client, n=2, temperature=1)
    assert "metrics" not in body  # the times of which choice?
    _, body = await ask(make_app().test_client())
    assert "metrics" not in body
