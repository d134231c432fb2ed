"""stream_interval: how many tokens go into a chunk."""

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.asking import ANSWER, QUESTION, events
from tests.frontend.fake_pool import FakePool


def texts(found: list[dict[str, Any]], index: int = 0) -> list[str]:
    choices = [c for event in found for c in event["choices"] if c["index"] == index]
    return [c["delta"].get("content", "") if "delta" in c else c["text"] for c in choices]


async def test_the_first_and_the_last_come_at_once_and_the_others_together(
    client: Client, text: ModelTokenizer
) -> None:
    found = await events(client, messages=QUESTION, stream_interval=3, return_token_ids=True)
    counts = [len(event["choices"][0]["token_ids"] or ()) for event in found[1:]]
    assert counts == [1, 3, 3, 1]
    assert "".join(texts(found)) == ANSWER


@pytest.mark.parametrize("per_output", [1, 2, 4])
async def test_nothing_is_lost_or_twice(client: Client, pool: FakePool, per_output: int) -> None:
    pool.per_output = per_output
    asked: dict[str, Any] = {"messages": QUESTION, "logprobs": True, "temperature": 1, "n": 2}
    plain = await events(client, **asked)
    held = await events(client, stream_interval=4, **asked)
    assert len(held) < len(plain) or per_output == 4
    for index in (0, 1):
        assert "".join(texts(held, index)) == "".join(texts(plain, index)) == ANSWER
        tokens = [
            entry["token"]
            for event in held
            for choice in event["choices"]
            if choice["index"] == index and choice["logprobs"]
            for entry in choice["logprobs"]["content"]
        ]
        assert len(tokens) == 8
        assert held[-1]["choices"][0]["finish_reason"] == "stop"


async def test_completions_hold_back_too(client: Client, pool: FakePool) -> None:
    pool.reply = lambda request: [300] * 20
    found = await events(
        client, "/v1/completions", prompt="Hello", max_tokens=20, stream_interval=9
    )
    assert len(found) == 4
    assert len("".join(texts(found))) == 20 * len(texts(found)[0])
