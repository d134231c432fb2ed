"""POST /v1/responses in one piece: what is asked, what is answered, what is rejected."""

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.pool.interface import PoolBusy
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.response_asking import PATH, ask, get, refusal, text_of

ANSWER = "The capital of France is Paris."


def prompt(pool: FakePool, text: ModelTokenizer, number: int = -1) -> str:
    return text.backend.decode(pool.requests[number].prompt_token_ids, skip_special_tokens=False)


async def test_a_text_is_answered(client: Client, pool: FakePool, text: ModelTokenizer) -> None:
    body = await ask(client, input="Where?", instructions="Be brief.", metadata={"a": "b"})
    assert text_of(body) == ANSWER
    assert body["status"] == "completed"
    assert body["metadata"] == {"a": "b"}
    assert body["usage"]["total_tokens"] == (
        body["usage"]["input_tokens"] + body["usage"]["output_tokens"]
    )
    assert body["usage"]["input_tokens"] == len(pool.requests[0].prompt_token_ids)
    shown = prompt(pool, text)
    assert shown.index("Be brief.") < shown.index("Where?")


async def test_sampling_fields_reach_the_worker(client: Client, pool: FakePool) -> None:
    body = await ask(
        client, temperature=0.5, top_p=0.75, top_k=7, seed=11, max_output_tokens=3, stop=["x"]
    )
    sampling = pool.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.75, 7)
    assert (sampling.seed, sampling.max_tokens) == (11, 3)
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.75, 3)


async def test_a_response_that_is_cut_is_incomplete(client: Client) -> None:
    body = await ask(client, max_output_tokens=4)
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"


async def test_log_probabilities_are_included_when_asked_for(client: Client) -> None:
    body = await ask(client, include=["message.output_text.logprobs"], top_logprobs=2)
    logprobs = body["output"][0]["content"][0]["logprobs"]
    assert "".join(at["token"] for at in logprobs).startswith(ANSWER)
    assert all(len(at["top_logprobs"]) == 2 for at in logprobs)


async def test_a_conversation_goes_on_from_a_response(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    first = await ask(client, input="One?", instructions="Old instructions.")
    second = await ask(client, input="Two?", previous_response_id=first["id"])
    third = await ask(client, input="Three?", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    shown = prompt(pool, text)
    indices = [shown.index(part) for part in ("One?", ANSWER, "Two?", "Three?")]
    assert indices == sorted(indices)
    assert shown.count(ANSWER) == 2
    assert "Old instructions." not in shown


async def test_output_that_is_sent_back_is_input(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    first = await ask(client, input="One?", store=False)
    said = [{"role": "user", "content": "One?"}, *first["output"]]
    parts = [{"type": "input_text", "text": "Two?"}]
    await ask(client, input=[*said, {"role": "user", "content": parts}])
    shown = prompt(pool, text)
    assert shown.index("One?") < shown.index(ANSWER) < shown.index("Two?")


async def test_an_item_can_be_referred_to(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    first = await ask(client, input="One?")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await ask(client, input=[reference, {"role": "user", "content": "Two?"}])
    assert ANSWER in prompt(pool, text)


async def test_nothing_is_kept_without_store(client: Client) -> None:
    body = await ask(client, store=False)
    await get(client, body["id"], 404)


async def test_a_long_prompt_is_cut_only_when_asked_for(client: Client, pool: FakePool) -> None:
    long = "word " * 3000
    param, _ = await refusal(client, input=long)
    assert param in ("input", "input_tokens")
    await ask(client, input=long, truncation="auto", max_output_tokens=64)
    assert len(pool.requests[-1].prompt_token_ids) == 2048 - 64


IMAGE = {"type": "input_image", "image_url": "x"}


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("temperature", {"temperature": -1}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("max_output_tokens", {"max_output_tokens": 10**6}),
        ("background", {"background": True, "store": False}),
        ("prompt", {"prompt": {"id": "x"}}),
        ("previous_input_messages", {"previous_input_messages": [{}]}),
        ("body.tools.0.type", {"tools": [{"name": "f"}]}),
        ("body.tools.0.name", {"tools": [{"type": "function"}]}),
        (
            "body.tools.0.parameters",
            {"tools": [{"type": "function", "name": "f", "parameters": 1}]},
        ),
        ("body.tools.0.server_label", {"tools": [{"type": "mcp", "require_approval": "never"}]}),
        ("tools.0.require_approval", {"tools": [{"type": "mcp", "server_label": "demo"}]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tool_choice": {"type": "function", "name": "f"}}),
        ("input", {"input": []}),
        ("body.input.0.call_id", {"input": [{"type": "computer_call", "action": {}}]}),
        ("body.input.0.role", {"input": [{"content": "x"}]}),
        ("input.0.role", {"input": [{"role": "robot", "content": "x"}]}),
        ("body.input.0.content", {"input": [{"role": "user", "content": 5}]}),
        ("input.0.content.0.type", {"input": [{"role": "user", "content": [IMAGE]}]}),
        ("body.input.0.call_id", {"input": [{"type": "function_call_output", "output": "x"}]}),
        ("input.0.id", {"input": [{"type": "item_reference", "id": "msg_nope"}]}),
    ],
)
async def test_what_cannot_be_served_names_its_field(
    client: Client, param: str, body: dict[str, Any]
) -> None:
    found, message = await refusal(client, **body)
    assert found == param
    assert param.partition(".")[0] in message or "background" in message


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("body.input", {"input": None}),
        ("body.text.format.type", {"text": {"format": {"type": "xml"}}}),
        ("body.include.0", {"include": ["everything"]}),
        ("body.truncation", {"truncation": "middle"}),
        ("body.temperature", {"temperature": "hot"}),
        ("body.tools.0", {"tools": ["x"]}),
    ],
)
async def test_what_is_of_another_shape_names_its_field(
    client: Client, param: str, body: dict[str, Any]
) -> None:
    assert (await refusal(client, **body))[0] == param


async def test_an_unknown_model_and_an_unknown_response(client: Client) -> None:
    assert (await ask(client, 404, model="nope"))["error"]["param"] == "model"
    error = (await ask(client, 404, previous_response_id="resp_nope"))["error"]
    assert error["param"] == "previous_response_id"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_pool_that_is_busy_says_so(client: Client, pool: FakePool, stream: bool) -> None:
    pool.failure = PoolBusy("all workers are at their limit; try again later")
    answer = await client.post(PATH, json={"input": "Hello", "stream": stream})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
