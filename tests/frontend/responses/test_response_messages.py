"""What of a response is shown as the model has it: messages, and the size of the input."""

from typing import Any

import pytest
from openai import AsyncOpenAI
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.conftest import Serve
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.response_asking import ask, get, stream, until
from tests.frontend.responses.response_script import Script

DEMO = {"type": "mcp", "server_label": "demo", "require_approval": "never"}
FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object"}}


def decode(text: ModelTokenizer, token_ids: list[int]) -> str:
    return text.backend.decode(token_ids, skip_special_tokens=False)


async def test_prompt_and_output_are_shown(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    body = await ask(client, enable_response_messages=True)
    (prompt,), (output,) = body["input_messages"], body["output_messages"]
    assert tuple(prompt["tokens"]) == pool.requests[0].prompt_token_ids
    assert prompt["message"] == decode(text, prompt["tokens"])
    assert output["message"] == body["output"][0]["content"][0]["text"]
    assert decode(text, output["tokens"]).startswith(output["message"])
    assert {prompt["type"], output["type"]} == {"raw_message_tokens"}
    assert (await get(client, body["id"]))["output_messages"] == [output]


async def test_they_are_not_shown_unless_asked_for(client: Client) -> None:
    for fields in ({}, {"enable_response_messages": False}):
        assert "input_messages" not in await ask(client, **fields)


async def test_streams_and_background_responses_show_them_at_their_end(client: Client) -> None:
    fields = {"enable_response_messages": True, "seed": 3}
    whole = await ask(client, **fields)
    events = await stream(client, **fields)
    body = await ask(client, background=True, **fields)
    later = await until(client, body["id"], "completed")
    for other in (events[-1].data["response"], later):
        assert other["input_messages"] == whole["input_messages"]
        assert other["output_messages"] == whole["output_messages"]


async def test_each_turn_is_shown(serve: Serve, script: Script, pool: FakePool) -> None:
    says = ['<call calculate {"expression": "6*7"}>', "It is 42."]
    script.says = list(says)
    async with serve(tool_server="demo") as client:
        body = await ask(client, tools=[DEMO], enable_response_messages=True)
    (first,) = body["input_messages"]
    call, second, answer = body["output_messages"]
    assert [call["message"], answer["message"]] == says
    prompts = [request.prompt_token_ids for request in pool.requests]
    assert [tuple(first["tokens"]), tuple(second["tokens"])] == prompts


INPUTS: list[dict[str, Any]] = [
    {"input": "Hello"},
    {"input": "Hello", "instructions": "Be brief."},
    {"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"input": "Hello", "tools": [FUNCTION], "tool_choice": "none"},
    {"input": "word " * 3000, "truncation": "auto", "max_output_tokens": 64},
]


@pytest.mark.parametrize("body", INPUTS)
async def test_the_tokens_of_an_input_are_counted(
    client: Client, pool: FakePool, body: dict[str, Any]
) -> None:
    counted = await client.post("/v1/responses/input_tokens", json=body)
    assert counted.status_code == 200
    assert not pool.requests
    used = (await ask(client, **body))["usage"]["input_tokens"]
    assert await counted.get_json() == {"object": "response.input_tokens", "input_tokens": used}


async def test_the_tokens_of_a_conversation_are_counted(client: Client, pool: FakePool) -> None:
    first = await ask(client)
    body = {"previous_response_id": first["id"], "input": "More?"}
    counted = await client.post("/v1/responses/input_tokens", json=body)
    await ask(client, **body)
    count = (await counted.get_json())["input_tokens"]
    assert count == len(pool.requests[-1].prompt_token_ids)


@pytest.mark.parametrize(
    ("status", "param", "body"),
    [
        (400, "body.input", {}),
        (400, "input", {"input": []}),
        (400, "input.0.role", {"input": [{"role": "x", "content": "y"}]}),
        (400, "tool_choice", {"input": "x", "tool_choice": "required"}),
        (400, "input_tokens", {"input": "word " * 3000}),
        (404, "model", {"input": "x", "model": "nope"}),
    ],
)
async def test_inputs_that_cannot_be_counted(
    client: Client, status: int, param: str, body: dict[str, Any]
) -> None:
    answer = await client.post("/v1/responses/input_tokens", json=body)
    assert answer.status_code == status
    assert (await answer.get_json())["error"]["param"] == param


async def test_the_client_counts(openai_client: AsyncOpenAI) -> None:
    counted = await openai_client.responses.input_tokens.count(model="smol", input="Hello")
    answered = await openai_client.responses.create(model="smol", input="Hello")
    assert answered.usage is not None
    assert counted.input_tokens == answered.usage.input_tokens
