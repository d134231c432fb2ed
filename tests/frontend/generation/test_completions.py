import json
from typing import Any

import pytest
from quart import Response
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import EOS

PATH = "/v1/completions"
ANSWER = "The capital of France is Paris."


async def complete(client: Client, **fields: Any) -> tuple[Response, dict[str, Any]]:
    response = await client.post(PATH, json=fields)
    return response, await response.get_json()


async def stream(client: Client, **fields: Any) -> list[dict[str, Any]]:
    response = await client.post(PATH, json={"stream": True, **fields})
    assert response.status_code == 200, await response.get_data(as_text=True)
    lines = (await response.get_data(as_text=True)).strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_all_kinds_of_prompts(client: Client, pool: FakePool, text: ModelTokenizer) -> None:
    hello = text.backend.encode("Hello").ids
    for prompt, count in (("Hello", 1), (["Hello", "Hello"], 2), (hello, 1), ([hello] * 3, 3)):
        pool.requests.clear()
        response, body = await complete(client, prompt=prompt)
        assert response.status_code == 200, body
        assert [choice["text"] for choice in body["choices"]] == [ANSWER] * count
        assert [choice["index"] for choice in body["choices"]] == list(range(count))
        assert [list(r.prompt_token_ids) for r in pool.requests] == [hello] * count
        assert body["usage"]["prompt_tokens"] == len(hello) * count


async def test_prompts_times_n(client: Client, pool: FakePool) -> None:
    _, body = await complete(client, prompt=["Hello", "world"], n=2, temperature=1, seed=1)
    assert len(body["choices"]) == 4
    seeds = [request.sampling.seed for request in pool.requests]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]
    events = await stream(client, prompt=["Hello", "world"], n=2, temperature=1)
    for index in range(4):
        texts = [e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == index]
        assert "".join(texts) == ANSWER


async def test_sixteen_tokens_are_the_default(client: Client, pool: FakePool) -> None:
    pool.reply = lambda request: [300] * 100
    _, body = await complete(client, prompt="Hello")
    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"
    await complete(client, prompt=[5] * 2040)
    assert pool.requests[1].sampling.max_tokens == 8


async def test_echo_in_one_piece_and_streamed(client: Client) -> None:
    _, body = await complete(client, prompt=["Hello", "world"], echo=True)
    assert [choice["text"] for choice in body["choices"]] == ["Hello" + ANSWER, "world" + ANSWER]
    events = await stream(client, prompt="Hello", echo=True)
    assert "".join(event["choices"][0]["text"] for event in events) == "Hello" + ANSWER


async def test_echo_of_token_ids(client: Client, text: ModelTokenizer) -> None:
    ids = text.backend.encode("Hello 你好").ids
    _, body = await complete(client, prompt=ids, echo=True)
    assert body["choices"][0]["text"] == "Hello 你好" + ANSWER


async def test_echo_without_output(client: Client, pool: FakePool) -> None:
    _, body = await complete(client, prompt="Hello world", echo=True, max_tokens=0, logprobs=1)
    choice = body["choices"][0]
    assert choice["text"] == "Hello world"
    assert choice["logprobs"]["tokens"] == ["Hello", " world"]
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    assert pool.requests[0].sampling.max_tokens == 1
    response, body = await complete(client, prompt="Hello", max_tokens=0)
    assert response.status_code == 400
    assert body["error"]["param"] == "max_tokens"


async def test_log_probabilities_with_echo_streamed_and_not(client: Client, pool: FakePool) -> None:
    fields = {"prompt": "The capital", "echo": True, "logprobs": 2, "max_tokens": 3}
    _, body = await complete(client, **fields)
    choice = body["choices"][0]
    shape = choice["logprobs"]
    assert shape["tokens"] == ["The", " capital", "The", " capital", " of"]
    assert shape["text_offset"] == [0, 3, 11, 14, 22]
    assert shape["token_logprobs"] == [None, *[-0.25] * 4]
    assert shape["top_logprobs"][0] is None
    assert len(shape["top_logprobs"][1]) == 2
    assert choice["prompt_logprobs"][0] is None
    assert len(choice["prompt_logprobs"]) == 2
    assert pool.requests[0].sampling.prompt_logprobs == 2
    parts = [event["choices"][0]["logprobs"] for event in await stream(client, **fields)]
    for key in shape:
        assert [value for part in parts for value in part[key]] == shape[key]


async def test_prompt_logprobs_alone(client: Client) -> None:
    _, body = await complete(client, prompt="The capital", prompt_logprobs=1)
    first, second = body["choices"][0]["prompt_logprobs"]
    assert first is None
    assert next(iter(second.values())) == {
        "logprob": -0.25,
        "rank": 1,
        "decoded_token": " capital",
    }
    assert body["choices"][0]["logprobs"] is None


async def test_tokens_as_ids(client: Client, text: ModelTokenizer) -> None:
    _, body = await complete(
        client, prompt="Hello", logprobs=0, max_tokens=1, return_tokens_as_token_ids=True
    )
    token_id = text.backend.encode("The").ids[0]
    assert body["choices"][0]["logprobs"]["tokens"] == [f"token_id:{token_id}"]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 3}, [7, 8, 9]),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, [5, 6, 7]),
        ({"truncate_prompt_tokens": -1}, [5, 6, 7, 8, 9]),
    ],
)
async def test_prompts_are_truncated_on_demand(
    client: Client, pool: FakePool, fields: dict[str, Any], kept: list[int]
) -> None:
    await complete(client, prompt=[5, 6, 7, 8, 9], **fields)
    assert list(pool.requests[0].prompt_token_ids) == kept


async def test_characters_split_over_prompt_and_output(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    first, *rest = text.backend.encode("é").ids
    pool.reply = lambda request: [*rest, EOS]
    _, body = await complete(client, prompt=[first])
    assert rest
    assert body["choices"][0]["text"] == "é"


async def test_an_unfinished_character_is_shown_at_the_end(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    first = text.backend.encode("é").ids[0]
    pool.reply = lambda request: [first, EOS]
    _, body = await complete(client, prompt="Hello")
    assert body["choices"][0]["text"] == "\ufffd"


async def test_the_clients_request_id_is_in_the_answers_id(client: Client) -> None:
    _, body = await complete(client, prompt="Hello", request_id="mine")
    assert body["id"] == "cmpl-mine"
