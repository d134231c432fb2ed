"""POST /v1/chat/completions/batch."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.chat.chat_run import ChatRun
from headrace.frontend.chat.start_chat import start_chat
from headrace.frontend.context import Context
from headrace.frontend.pool.interface import RequestLost
from headrace.frontend.routes import chat_batch
from headrace.frontend.schemas.chat_batch import ChatBatchRequest
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from tests.frontend.fake_pool import FakePool, FakeStream

PATH = "/v1/chat/completions/batch"
SAID = ["What is the capital of France?", "Hello world", "The answer"]
CHATS = [[{"role": "user", "content": text}] for text in SAID]


async def ask(client: Client, **fields: Any) -> tuple[int, dict[str, Any]]:
    response = await client.post(PATH, json={"messages": CHATS, **fields})
    return response.status_code, await response.get_json()


@pytest.fixture
def echoing(pool: FakePool) -> FakePool:
    """A model that says the words of its prompt, which so tell the chats apart."""
    pool.reply = lambda request: [*(id_ for id_ in request.prompt_token_ids if id_ > 2), 2]
    return pool


async def test_answers_each_chat_in_order_as_it_is_answered_alone(
    client: Client, echoing: FakePool
) -> None:
    fields = {"logprobs": True, "top_logprobs": 1, "return_token_ids": True, "request_id": "r"}
    status, batch = await ask(client, **fields)
    assert status == 200
    alone = []
    for messages in CHATS:
        body = {"messages": messages, **fields}
        response = await client.post("/v1/chat/completions", json=body)
        alone.append(await response.get_json())
    assert batch["id"] == "chatcmpl-r"
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2]
    for index, one in enumerate(alone):
        assert batch["choices"][index] == {**one["choices"][0], "index": index}
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert batch["usage"][key] == sum(one["usage"][key] for one in alone)
    assert set(batch) == set(alone[0])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"messages": []}, "messages"),
        ({"messages": CHATS[0]}, "messages.0"),
        ({"messages": [CHATS[0], [{"role": "user", "content": 1}]]}, "messages.1.0.content"),
        ({"messages": [[]] * 1025}, "messages"),
        ({"messages": CHATS[:1] * 1000, "bad_words": ["a" * 200] * 6}, "bad_words"),
        ({"messages": [CHATS[0], []]}, "messages"),
    ],
)
async def test_bad_requests_name_the_field(
    client: Client, pool: FakePool, fields: dict[str, Any], named: str
) -> None:
    status, body = await ask(client, **fields)
    assert status == 400
    shown = body["error"]["param"] or body["error"]["message"]
    assert re.match(rf"(body\.)?{re.escape(named)}(\W|$)", shown)
    assert all(stream.cancelled for stream in pool.streams)


async def test_one_that_fails_fails_all_and_frees_the_others(
    client: Client, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(request: Generate) -> list[int]:
        return [300] * 5

    pool.reply, pool.hold_after = reply, 2
    held = pool.generate

    def generate(group: str, request: Generate) -> FakeStream:
        stream = held(group, request)
        if len(pool.requests) == 2:

            async def fail() -> AsyncIterator[Output]:
                if pool.requests:
                    raise RequestLost("its workers have failed")
                yield Output(request.request_id, (), 0)

            stream._outputs = fail()
        return stream

    monkeypatch.setattr(pool, "generate", generate)
    status, body = await ask(client)
    assert status == 500
    assert body["error"]["message"] == "its workers have failed"
    assert len(pool.streams) == 3
    assert all(stream.cancelled for stream in pool.streams)


async def test_others_have_their_turn_between_the_chats_of_a_batch(
    client: Client, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    seen = []

    async def start(context: Context, request: ChatBatchRequest) -> ChatRun:
        seen.append(turns)
        return await start_chat(context, request)

    monkeypatch.setattr(chat_batch, "start_chat", start)
    other = asyncio.create_task(take_turns())
    status, _ = await ask(client)
    other.cancel()
    assert status == 200
    assert len(set(seen)) == len(CHATS)
