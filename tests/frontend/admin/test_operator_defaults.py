"""What the operator decides about answers and logs."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.protocol.config import ServingOptions
from tests.frontend.asking import ANSWER, QUESTION, ask, complete, events
from tests.frontend.conftest import MAKE_APP

ASSISTANT = {"role": "assistant", "content": "It is"}


async def test_answers_are_of_the_role_that_the_operator_names(make_app: MAKE_APP) -> None:
    client = make_app(serving=ServingOptions(response_role="oracle")).test_client()
    _, body = await ask(client)
    assert body["choices"][0]["message"]["role"] == "oracle"
    first = (await events(client, messages=QUESTION))[0]
    assert first["choices"][0]["delta"]["role"] == "oracle"
    going_on = {"add_generation_prompt": False, "continue_final_message": True, "echo": True}
    _, body = await ask(client, messages=[*QUESTION, ASSISTANT], **going_on)
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["message"]["content"] == "It is" + ANSWER


async def test_tokens_as_ids_unless_the_request_says_otherwise(make_app: MAKE_APP) -> None:
    client = make_app(serving=ServingOptions(return_tokens_as_token_ids=True)).test_client()
    fields = {"prompt": "Hello", "logprobs": 0, "max_tokens": 1}
    _, body = await complete(client, **fields)
    assert body["choices"][0]["logprobs"]["tokens"][0].startswith("token_id:")
    _, body = await complete(client, return_tokens_as_token_ids=False, **fields)
    assert body["choices"][0]["logprobs"]["tokens"] == ["The"]


async def test_usage_may_be_in_all_streams(make_app: MAKE_APP) -> None:
    client = make_app(serving=ServingOptions(enable_force_include_usage=True)).test_client()
    choices: list[dict[str, Any]] = [{}, {"stream_options": {"include_usage": False}}]
    for fields in choices:
        found = await events(client, messages=QUESTION, **fields)
        assert found[-1]["usage"]["completion_tokens"] == 8
        assert all("usage" not in event for event in found[:-1])
    options = {"continuous_usage_stats": True}
    found = await events(client, "/v1/completions", prompt="Hello", stream_options=options)
    assert all("usage" in event for event in found)
    _, body = await ask(client)
    assert body["usage"]["completion_tokens"] == 8


async def test_details_of_the_usage_can_be_turned_off(make_app: MAKE_APP, client: Client) -> None:
    _, body = await ask(client)
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    quiet = make_app(serving=ServingOptions(enable_prompt_tokens_details=False)).test_client()
    for _, body in (await ask(quiet), await complete(quiet, prompt="Hello")):
        assert body["usage"]["prompt_tokens_details"] is None


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, logger="headrace.frontend.requests")
    return lambda: [record.getMessage() for record in caplog.records]


async def test_requests_and_outputs_are_logged_if_wanted(
    make_app: MAKE_APP, client: Client, logged: Callable[[], list[str]]
) -> None:
    await ask(client)
    assert logged() == []
    client = make_app(enable_log_requests=True).test_client()
    await complete(client, prompt="Hello\nINFO forged", max_tokens=3)
    (line,) = logged()
    assert "prompt: 'Hello\\nINFO forged'" in line
    assert "max_tokens=3" in line
    client = make_app(enable_log_requests=True, enable_log_outputs=True).test_client()
    response, _ = await ask(client, n=2, temperature=1)
    lines = logged()[1:]
    assert len(lines) == 3
    assert all(response.headers["x-request-id"] in line for line in lines)
    assert all(f"'{ANSWER}'" in line and "finish_reason: stop" in line for line in lines[1:])


async def test_the_log_is_cut_where_the_operator_wants(
    make_app: MAKE_APP, logged: Callable[[], list[str]]
) -> None:
    settings = {"enable_log_requests": True, "enable_log_outputs": True, "max_log_len": 4}
    client = make_app(**settings).test_client()
    await events(client, "/v1/completions", prompt="Hello world", max_tokens=7)
    received, answered = logged()
    assert "prompt: 'Hell', " in received
    assert "'The '" in answered
    assert answered.count(",") <= 8


async def test_batches_of_chats_are_as_the_operator_wants_too(make_app: MAKE_APP) -> None:
    serving = ServingOptions(enable_prompt_tokens_details=False, return_tokens_as_token_ids=True)
    client = make_app(serving=serving).test_client()
    asked = {"messages": [QUESTION, QUESTION], "logprobs": True, "max_tokens": 1}
    response = await client.post("/v1/chat/completions/batch", json=asked)
    body = await response.get_json()
    assert body["usage"]["prompt_tokens_details"] is None
    tokens = [choice["logprobs"]["content"][0]["token"] for choice in body["choices"]]
    assert [token.startswith("token_id:") for token in tokens] == [True, True]
    many = {"messages": [QUESTION] * 500, "allowed_token_ids": [5] * 10_000}
    response = await client.post("/v1/chat/completions/batch", json=many)
    assert (await response.get_json())["error"]["param"] == "allowed_token_ids"
