"""What an operator says about pooling, as clients see it: longer texts, and defaults of fields."""

import pytest

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.pooling.models import client_of, post

EMBEDS = ("embed", "token_embed")
LONG = list(range(3, 103))  # the model takes 64


@pytest.mark.parametrize("path", ["/v1/embeddings", "/pooling", "/invocations"])
async def test_longer_texts_are_embedded(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool, path: str
) -> None:
    client = client_of(make_app, pooling_text, tasks=EMBEDS, max_embed_len=100)
    status, body = await post(client, path, input=[LONG, [5]])
    assert status == 200
    assert [len(each.prompt_token_ids) for each in pool.encoded] == [100, 1]
    assert body["usage"]["prompt_tokens"] == 101
    status, body = await post(client, path, input=[*LONG, 5])
    assert (status, body["error"]["param"]) == (400, "input_tokens")
    assert "101 tokens, more than the 100" in body["error"]["message"]


async def test_longer_texts_of_words(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    client = client_of(make_app, pooling_text, tasks=EMBEDS, max_embed_len=10_000)
    words = "Hello you " * 400
    status, _ = await post(client, "/v2/embed", texts=[words], truncate="NONE")
    assert status == 200
    assert 64 < len(pool.encoded[0].prompt_token_ids) < 10_000
    cut = {"truncate_prompt_tokens": 200}
    status, _ = await post(client, "/v1/embeddings", input=words, **cut)
    assert (status, len(pool.encoded[1].prompt_token_ids)) == (200, 200)
    status, body = await post(client, "/score", text_1="Hello", text_2=words)
    assert (status, body["error"]["param"]) == (400, "input_tokens")  # pieces are of embeddings
    status, body = await post(client, "/pooling", input=words, task="token_embed")
    assert (status, body["error"]["param"]) == (400, "input_tokens")


async def test_shorter_texts_alone(make_app: MAKE_APP, pooling_text: ModelTokenizer) -> None:
    client = client_of(make_app, pooling_text, tasks=EMBEDS, max_embed_len=10)
    status, body = await post(client, "/v1/embeddings", input=[5] * 11)
    assert (status, body["error"]["param"]) == (400, "input_tokens")


async def test_what_requests_leave_out(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    said = {"default_task": "token_embed", "default_dimensions": 2, "activates": False}
    client = client_of(make_app, pooling_text, tasks=EMBEDS, dimensions=(), **said)
    assert (await post(client, "/pooling", input=[5]))[0] == 200
    assert (await post(client, "/v1/embeddings", input=[5]))[0] == 200
    given = {"dimensions": 3, "use_activation": True}
    assert (await post(client, "/v1/embeddings", input=[5], **given))[0] == 200
    seen = [(each.task, each.dimensions, each.activates) for each in pool.encoded]
    assert seen == [("token_embed", 2, False), ("embed", 2, False), ("embed", 3, True)]
