"""Which keys the chunks of a stream have: those that OpenAI's API lacks only with a value."""

from typing import Any

import pytest
from openai import AsyncOpenAI
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.asking import ANSWER, QUESTION, events
from tests.frontend.fake_pool import FakePool

OPTIONS: list[dict[str, Any]] = [
    {},
    {"n": 2, "temperature": 1},
    {"logprobs": True, "top_logprobs": 1},
    {"return_token_ids": True},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
]


def nulls(value: Any, key: str = "") -> set[str]:
    """The names of the fields that are null, at any depth."""
    if isinstance(value, dict):
        return set[str]().union(*(nulls(item, name) for name, item in value.items()))
    if isinstance(value, list):
        return set[str]().union(*(nulls(item, key) for item in value))
    return {key} if value is None else set()


@pytest.mark.parametrize("options", OPTIONS)
async def test_only_openais_fields_are_null(client: Client, options: dict[str, Any]) -> None:
    chat = await events(client, messages=QUESTION, **options)
    options = {**options, "logprobs": 1} if options.pop("top_logprobs", None) else options
    completion = await events(client, "/v1/completions", prompt="Hello", **options)
    for event in chat + completion:
        assert nulls(event) <= {"finish_reason", "logprobs"}, event
        for choice in event["choices"]:
            assert {"finish_reason", "logprobs"} <= set(choice)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_the_others_are_there_when_they_have_a_value(
    client: Client, text: ModelTokenizer, path: str
) -> None:
    prompt = {"messages": QUESTION} if "chat" in path else {"prompt": "Hello"}
    found = await events(client, path, stop=" Paris", return_token_ids=True, **prompt)
    first, last = found[0], found[-1]["choices"][0]
    assert (first if "chat" in path else first["choices"][0])["prompt_token_ids"]
    token_ids = [each for event in found for each in event["choices"][0].get("token_ids", ())]
    assert text.backend.decode(token_ids) == ANSWER.removesuffix(".")
    assert last["stop_reason"] == " Paris"
    assert all("stop_reason" not in event["choices"][0] for event in found[:-1])


async def test_openais_client_reads_them(openai_client: AsyncOpenAI, pool: FakePool) -> None:
    asked = {"return_token_ids": True, "return_prompt_text": True}
    stream = openai_client.chat.completions.stream(
        model="smol",
        messages=QUESTION,  # type: ignore[arg-type]
        stop=[" Paris"],
        extra_body=asked,
    )
    token_ids: list[int] = []
    async with stream as read:
        async for event in read:
            if event.type == "chunk":
                for choice in event.chunk.choices:
                    token_ids += (choice.model_extra or {}).get("token_ids", [])
        final = await read.get_final_completion()
    (whole,) = final.choices
    assert whole.message.content == "The capital of France is"
    assert whole.finish_reason == "stop"
    # The client keeps of later chunks' choices what it knows itself, so these are not there; if
    # the first chunk had them, they would be: as null.
    assert not {"stop_reason", "token_ids"} & set(whole.model_extra or {})
    assert len(token_ids) == len(ANSWER.split())
    extra = final.model_extra or {}
    assert extra["prompt_token_ids"] == list(pool.requests[0].prompt_token_ids)
    assert extra["prompt_text"].endswith("assistant\n")
