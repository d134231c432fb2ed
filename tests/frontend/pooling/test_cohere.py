"""/v2/embed: Cohere's requests and answers."""

import base64
import struct
from array import array
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.to_frontend import Pooled
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.pooling.models import client_of, post, rejected

VECTOR = (1.0, -2.0, 0.0, 3.0, -1.0, -1.0, -1.0, 0.5, -0.5, *(1.0,) * 6, -1.0)
BITS = [0b10110001, 0b01111110]


@pytest.fixture
def embedder(make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool) -> Client:
    def numbers(request: Any) -> Pooled:
        kept = VECTOR[: request.dimensions]
        return Pooled(array("f", kept).tobytes(), (len(kept),))

    pool.numbers = numbers
    prompts = {"query": "ask: ", "document": "", "web": "web: "}
    info = {"tasks": ("embed",), "size": len(VECTOR), "prompts": prompts, "dimensions": (4, 16)}
    return client_of(make_app, pooling_text, **info)


@pytest.mark.parametrize("path", ["/v2/embed", "/invocations"])
async def test_embeddings_are_an_object_by_type(
    embedder: Client, pool: FakePool, path: str
) -> None:
    types = ["float", "binary", "ubinary", "base64"]
    status, body = await post(
        embedder, path, model="smol", texts=["a", "b"], input_type="classification",
        embedding_types=types,
    )  # fmt: skip
    assert status == 200
    assert list(body["embeddings"]) == types
    assert body["embeddings"]["float"] == [list(VECTOR)] * 2
    assert body["embeddings"]["ubinary"] == [BITS] * 2
    assert body["embeddings"]["binary"] == [[byte - 128 for byte in BITS]] * 2
    decoded = base64.b64decode(body["embeddings"]["base64"][1])
    assert struct.unpack(f"<{len(VECTOR)}f", decoded) == VECTOR
    assert (body["texts"], body["response_type"]) == (["a", "b"], "embeddings_by_type")
    assert body["id"].startswith("embd-")
    tokens = sum(len(request.prompt_token_ids) for request in pool.encoded)
    billed = {"input_tokens": tokens, "image_tokens": 0}
    assert body["meta"] == {"api_version": {"version": "2"}, "billed_units": billed}


@pytest.mark.parametrize(
    ("path", "fields", "routes"),
    [
        ("/v2/embed", {"texts": ["a"], "input_type": "search_query"}, ["query"]),
        ("/v2/embed", {"texts": ["a"], "input_type": "search_document"}, ["passage"]),
        ("/v2/embed", {"texts": ["a"], "input_type": "passage"}, ["passage"]),
        ("/v2/embed", {"texts": ["a"], "input_type": "clustering"}, [""]),
        ("/v2/embed", {"texts": ["a"]}, [""]),
        ("/v1/embeddings", {"input": "a", "prompt_name": "query"}, ["query"]),
        ("/v1/embeddings", {"input": [5, 6], "prompt_name": "query"}, ["query"]),
        ("/v1/embeddings", {"input": "a"}, [""]),
        ("/rerank", {"query": "a", "documents": ["b", "c"]}, ["query", "passage", "passage"]),
    ],
)
async def test_kinds_of_texts_have_routes_of_a_router(
    make_app: MAKE_APP,
    pooling_text: ModelTokenizer,
    pool: FakePool,
    path: str,
    fields: dict[str, Any],
    routes: list[str],
) -> None:
    pool.numbers = lambda request: Pooled(array("f", VECTOR).tobytes(), (len(VECTOR),))
    info = {"tasks": ("embed",), "size": len(VECTOR), "routes": ("query", "passage")}
    status, body = await post(client_of(make_app, pooling_text, **info), path, **fields)
    assert status == 200, body
    assert [request.route for request in pool.encoded] == routes


async def test_floats_are_the_default(embedder: Client) -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    _, body = await post(embedder, "/v2/embed", inputs=[{"content": content}], output_dimension=4)
    assert body["embeddings"] == {"float": [list(VECTOR[:4])]}
    assert "texts" not in body


@pytest.mark.parametrize(
    ("input_type", "prompt"),
    [
        (None, ""),
        ("search_query", "ask: "),
        ("query", "ask: "),
        ("search_document", ""),
        ("clustering", ""),
        ("web", "web: "),
    ],
)
async def test_prompts_of_kinds_of_input(
    embedder: Client, pool: FakePool, pooling_text: ModelTokenizer, input_type: Any, prompt: str
) -> None:
    fields = {} if input_type is None else {"input_type": input_type}
    status, _ = await post(embedder, "/v2/embed", texts=["Hello"], **fields)
    assert status == 200
    assert pooling_text.backend.decode(pool.encoded[0].prompt_token_ids) == f"{prompt}Hello"


@pytest.mark.parametrize(
    ("prompts", "input_type", "prompt"),
    [
        ({}, None, "web: "),
        ({}, "search_query", ""),
        ({}, "clustering", ""),
        ({"query": "", "document": ""}, "search_query", ""),
        ({"query": "", "document": ""}, "document", ""),
        ({"query": "", "document": ""}, None, "web: "),
    ],
)
async def test_the_default_prompt_is_for_texts_of_no_kind(
    make_app: MAKE_APP,
    pooling_text: ModelTokenizer,
    pool: FakePool,
    prompts: dict[str, str],
    input_type: str | None,
    prompt: str,
) -> None:
    info = {"tasks": ("embed",), "default_prompt": "web", "prompts": {"web": "web: ", **prompts}}
    client = client_of(make_app, pooling_text, **info)
    fields = {} if input_type is None else {"input_type": input_type}
    status, _ = await post(client, "/v2/embed", texts=["Hello"], **fields)
    assert status == 200
    assert pooling_text.backend.decode(pool.encoded[0].prompt_token_ids) == f"{prompt}Hello"


@pytest.mark.parametrize("truncate", ["END", "START", None])
async def test_long_texts_are_cut(
    embedder: Client, pool: FakePool, pooling_text: ModelTokenizer, truncate: Any
) -> None:
    ids = pooling_text.backend.encode("a b c " * 100, add_special_tokens=False).ids
    fields = {} if truncate is None else {"truncate": truncate}
    for most in (None, 10):
        await post(embedder, "/v2/embed", texts=["a b c " * 100], max_tokens=most, **fields)
        kept = (most or 64) - 2
        part = ids[-kept:] if truncate == "START" else ids[:kept]
        assert pool.encoded[-1].prompt_token_ids == (1, *part, 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": [1]}, "body.texts"),
        ({"texts": ["a"], "inputs": [{"content": [{"type": "text", "text": "b"}]}]}, "inputs"),
        ({"images": ["data:image/png;base64,AA"]}, "images"),
        ({"texts": ["a"] * 2049}, "texts"),
        ({"texts": ["a"], "input_type": "poem"}, "input_type"),
        ({"texts": ["a"], "embedding_types": ["int8"]}, "body.embedding_types.0"),
        ({"texts": ["a"], "embedding_types": "float"}, "body.embedding_types"),
        ({"texts": ["a"], "output_dimension": 5}, "output_dimension"),
        ({"texts": ["a"], "output_dimension": 4, "embedding_types": ["binary"]}, "embedding_types"),
        ({"texts": ["a"], "truncate": "MIDDLE"}, "body.truncate"),
        ({"texts": ["a"], "max_tokens": 0}, "max_tokens"),
        ({"texts": ["Hello " * 100], "truncate": "NONE"}, "input_tokens"),
        ({"texts": ["Hello you"], "truncate": "NONE", "max_tokens": 3}, "max_tokens"),
    ],
)
async def test_bad_input_names_its_field(
    embedder: Client, pool: FakePool, fields: dict[str, Any], param: str
) -> None:
    assert await rejected(embedder, "/v2/embed", **fields) == param
    assert pool.encoded == []


async def test_errors_recommend_a_field_of_the_route(embedder: Client) -> None:
    fields = {"texts": ["Hello " * 50], "truncate": "NONE"}
    status, body = await post(embedder, "/v2/embed", **fields)
    assert status == 400
    assert "(truncate shortens texts)" in body["error"]["message"]


async def test_other_models(client: Client) -> None:
    status, body = await post(client, "/v2/embed", texts=["a"])
    assert (status, body["detail"]) == (404, "Not Found")
