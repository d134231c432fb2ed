"""A limit beyond what the prompt leaves of the context is cut to that; beyond the context: 400."""

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.fake_pool import FakePool

CONTEXT = 2048  # of the model of these tests
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TURNS = [QUESTION, [*QUESTION, {"role": "assistant", "content": "Paris."}, *QUESTION]]
IDS = [5, 6, 7]

LIMITED = [
    ("/v1/chat/completions", "max_tokens", {"messages": QUESTION}),
    ("/v1/chat/completions", "max_completion_tokens", {"messages": QUESTION}),
    ("/v1/chat/completions", "max_tokens", {"messages": QUESTION, "n": 3, "temperature": 1}),
    ("/v1/chat/completions", "max_tokens", {"messages": QUESTION, "stream": True}),
    ("/v1/chat/completions/batch", "max_tokens", {"messages": TURNS}),
    ("/v1/completions", "max_tokens", {"prompt": "Hello"}),
    ("/v1/completions", "max_tokens", {"prompt": IDS}),
    ("/v1/completions", "max_tokens", {"prompt": [IDS, [5] * 100]}),
    ("/v1/completions", "max_tokens", {"prompt": ["Hello", "Hello world"], "n": 2, "seed": 1}),
    ("/v1/completions", "max_tokens", {"prompt": "Hello", "echo": True, "logprobs": 1}),
    ("/v1/completions", "max_tokens", {"prompt": [5] * 3000, "truncate_prompt_tokens": 9}),
    ("/v1/responses", "max_output_tokens", {"input": "Hello", "store": False}),
    ("/v1/messages", "max_tokens", {"model": "smol", "messages": QUESTION}),
]


@pytest.mark.parametrize(("path", "field", "body"), LIMITED)
async def test_the_whole_context_means_the_rest_of_it(
    client: Client, pool: FakePool, path: str, field: str, body: dict[str, Any]
) -> None:
    answer = await client.post(path, json={**body, field: CONTEXT})
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    assert pool.requests
    for request in pool.requests:
        assert request.sampling.max_tokens == CONTEXT - len(request.prompt_token_ids)


@pytest.mark.parametrize(("path", "field", "body"), LIMITED)
async def test_more_than_the_context_is_an_error(
    client: Client, pool: FakePool, path: str, field: str, body: dict[str, Any]
) -> None:
    answer = await client.post(path, json={**body, field: CONTEXT + 1})
    assert answer.status_code == 400
    error = (await answer.get_json())["error"]
    assert field in error["message"]
    assert str(CONTEXT) in error["message"]
    assert not pool.requests


async def test_beams_end_where_the_context_does(client: Client, pool: FakePool) -> None:
    """The search asks for one token at a time; here it never ends by itself."""
    pool.reply = lambda request: [50]
    body = {"prompt": [5] * (CONTEXT - 3), "use_beam_search": True, "n": 2, "max_tokens": CONTEXT}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    assert max(len(request.prompt_token_ids) for request in pool.requests) == CONTEXT - 1
    assert (await answer.get_json())["usage"]["completion_tokens"] == 6


async def test_a_least_number_of_tokens_that_does_not_fit_is_an_error(
    client: Client, pool: FakePool
) -> None:
    body = {"prompt": [5] * (CONTEXT - 3), "max_tokens": CONTEXT, "min_tokens": 4}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert (await answer.get_json())["error"]["param"] == "min_tokens"


async def test_responses_cut_their_prompts_only_where_they_must(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    """A limit of the whole context must not leave one token of the prompt."""
    body = {"input": "Hello " * 50, "truncation": "auto", "store": False}
    await client.post("/v1/responses", json={**body, "max_output_tokens": CONTEXT})
    await client.post("/v1/responses", json=body)
    first, second = (request.prompt_token_ids for request in pool.requests)
    assert first == second
