"""An answer does not depend on how its tokens are spread over the worker's messages: one each, or
several where drafts proved right."""

import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.fake_pool import FakePool

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (COMPLETION, {"prompt": "Hello"}),
    "stop within a message": (COMPLETION, {"prompt": "Hello", "stop": "of Fr", "logprobs": 1}),
    "stop shown": (
        COMPLETION,
        {"prompt": "Hello", "stop": ["France"], "include_stop_str_in_output": True},
    ),
    "stop after some tokens": (COMPLETION, {"prompt": "Hello", "stop": " ", "min_tokens": 4}),
    "offsets": (COMPLETION, {"prompt": "The capital", "logprobs": 2, "echo": True}),
    "cut": (COMPLETION, {"prompt": "Hello", "max_tokens": 4, "return_token_ids": True}),
    "chat": (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2, "stop": "Par"}),
    "chat with ids": (CHAT, {"messages": MESSAGES, "return_token_ids": True, "n": 2, "seed": 1}),
}


async def whole(client: Any, path: str, fields: dict[str, Any]) -> tuple[Any, Any]:
    response = await client.post(path, json=fields)
    body = await response.get_json()
    assert response.status_code == 200, body
    return body["choices"], body["usage"]


async def streamed(client: Any, path: str, fields: dict[str, Any]) -> dict[int, Any]:
    """What the chunks of each choice say together."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post(path, json={**fields, **options})
    lines = (await response.get_data(as_text=True)).strip().split("\n\n")
    joined: dict[int, Any] = {}
    usage = None
    for line in lines[:-1]:
        chunk = json.loads(line.removeprefix("data: "))
        for choice in chunk["choices"]:
            so_far = joined.setdefault(choice["index"], {"text": "", "ids": [], "logprobs": []})
            so_far["text"] += choice.get("text") or choice.get("delta", {}).get("content") or ""
            so_far["ids"] += choice.get("token_ids") or []
            so_far["reason"] = choice["finish_reason"]
            for key, values in sorted((choice.get("logprobs") or {}).items()):
                so_far["logprobs"] += [(key, value) for value in values]
        usage = chunk.get("usage")
    for so_far in joined.values():
        so_far["logprobs"].sort(key=lambda pair: pair[0])
    assert usage is not None
    joined[-1] = usage
    return joined


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_same_answer_however_tokens_are_grouped(
    client: Client, pool: FakePool, name: str
) -> None:
    path, fields = REQUESTS[name]
    one_piece = await whole(client, path, fields)
    chunks = await streamed(client, path, fields)
    for size in (2, 3, 5, 100):
        pool.per_output = size
        assert await whole(client, path, fields) == one_piece
        assert await streamed(client, path, fields) == chunks


async def test_a_stop_string_in_the_middle_of_a_message_ends_the_request(
    client: Client, pool: FakePool
) -> None:
    pool.per_output = 4
    body = await client.post(COMPLETION, json={"prompt": "Hello", "stop": " capital"})
    choice = (await body.get_json())["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("The", "stop")
    assert choice["stop_reason"] == " capital"
    assert pool.streams[0].cancelled
