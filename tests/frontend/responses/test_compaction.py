"""POST /v1/responses/compact: the user's messages and a summary, which later requests read."""

from typing import Any

import pytest
from openai import AsyncOpenAI
from quart.typing import TestClientProtocol as Client

from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.response_asking import ask
from tests.frontend.responses.response_script import Script

PATH = "/v1/responses/compact"
CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "Look."},
    CALL,
    {"type": "function_call_output", "call_id": "c", "output": "a cat"},
    {"role": "assistant", "content": "It is a cat."},
    {"role": "user", "content": "Which?"},
]


async def compact(client: Client, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json=body)
    assert answer.status_code == status, await answer.get_data(as_text=True)
    return dict(await answer.get_json())


def roles(chat: dict[str, Any]) -> list[str]:
    return [message["role"] for message in chat["messages"]]


async def test_a_conversation_is_summed_up_and_continued(client: Client, script: Script) -> None:
    script.says = ["<think>Hm.</think>A cat was seen.", "The black one."]
    body = await compact(client, input=ITEMS, instructions="Be kind.", tools=[{"type": "x"}])
    assert (body["object"], body["id"][:5]) == ("response.compaction", "resp_")
    assert body["usage"]["output_tokens"] > 0
    *users, summary = body["output"]
    assert [item["content"][0]["text"] for item in users] == ["Look.", "Which?"]
    assert summary["type"] == "compaction"
    assert roles(script.chats[0]) == ["system", "user", "assistant", "tool", "assistant"] + (
        ["user"] * 2
    )
    await ask(client, input=[*body["output"], {"role": "user", "content": "So?"}])
    said = script.chats[1]["messages"]
    assert [message["role"] for message in said] == ["user"] * 4
    assert "A cat was seen." in said[2]["content"]
    assert "Hm." not in said[2]["content"]


async def test_earlier_responses_and_summaries_are_summed_up(
    client: Client, script: Script
) -> None:
    script.says = ["Hello.", "A greeting.", "Two greetings."]
    first = await ask(client, input="Hi.")
    body = await compact(client, previous_response_id=first["id"])
    assert [item["type"] for item in body["output"]] == ["message", "compaction"]
    again = await compact(client, input=[*body["output"], {"role": "user", "content": "Hi!"}])
    assert [item["type"] for item in again["output"]] == ["message", "message", "compaction"]
    assert "A greeting." in script.chats[-1]["messages"][1]["content"]


async def test_a_conversation_may_be_longer_than_the_context(
    client: Client, pool: FakePool
) -> None:
    body = await compact(client, input="word " * 3000)
    assert body["output"][-1]["type"] == "compaction"
    assert len(pool.requests[0].prompt_token_ids) == 2048 - 512


@pytest.mark.parametrize(
    ("status", "param", "body"),
    [
        (400, "input", {}),
        (400, "input.0.role", {"input": [{"role": "x", "content": "y"}]}),
        (404, "model", {"input": "x", "model": "nope"}),
        (404, "previous_response_id", {"previous_response_id": "resp_x"}),
    ],
)
async def test_what_cannot_be_compacted(
    client: Client, status: int, param: str, body: dict[str, Any]
) -> None:
    assert (await compact(client, status, **body))["error"]["param"] == param


async def test_the_client_compacts(openai_client: AsyncOpenAI) -> None:
    body = await openai_client.responses.compact(model="smol", input="Hello")
    assert [item.type for item in body.output] == ["message", "compaction"]
    assert body.usage.total_tokens > 0
