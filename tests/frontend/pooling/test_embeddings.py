"""/v1/embeddings: what it takes, what it answers, and whose work it is."""

import asyncio
import base64
import json
import struct
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from quart import Response
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import EngineConfig
from headrace.protocol.text import PoolingInfo
from tests.frontend.asking import ask, complete, numbers
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.pooling.models import client_of

TEXT = "The capital of France is Paris."


async def embed(client: Client, **fields: Any) -> tuple[Response, dict[str, Any]]:
    response = await client.post("/v1/embeddings", json=fields)
    return response, await response.get_json()


async def rejection(client: Client, **fields: Any) -> dict[str, Any]:
    response, body = await embed(client, **fields)
    assert response.status_code == 400, body
    error: dict[str, Any] = body["error"]
    return error


def ids_of(text: ModelTokenizer, *texts: str) -> list[tuple[int, ...]]:
    return [(1, *text.backend.encode(each, add_special_tokens=False).ids, 2) for each in texts]


async def test_a_text(pooling_client: Client, pooling_text: ModelTokenizer, pool: FakePool) -> None:
    response, body = await embed(pooling_client, model="smol", input=TEXT)
    assert response.status_code == 200
    (ids,) = ids_of(pooling_text, TEXT)
    assert pool.encoded[0].prompt_token_ids == ids
    (item,) = body["data"]
    assert item["embedding"] == pytest.approx([sum(ids), len(ids), 0.1])
    assert (item["index"], item["object"], body["object"]) == (0, "embedding", "list")
    assert body["id"].startswith("embd-")
    assert (body["model"], body["usage"]["prompt_tokens"]) == ("smol", len(ids))
    assert body["usage"]["total_tokens"] == len(ids)


@pytest.mark.parametrize("form", ["texts", "ids", "one list of ids"])
async def test_forms_of_input(
    pooling_client: Client, pooling_text: ModelTokenizer, pool: FakePool, form: str
) -> None:
    texts = [TEXT, "Hello", TEXT]
    ids = ids_of(pooling_text, *texts)
    given = {"texts": texts, "ids": [list(each) for each in ids], "one list of ids": list(ids[0])}
    _, body = await embed(pooling_client, input=given[form])
    wanted = ids[:1] if form == "one list of ids" else ids
    assert [request.prompt_token_ids for request in pool.encoded] == wanted
    assert [item["index"] for item in body["data"]] == list(range(len(wanted)))
    assert body["usage"]["prompt_tokens"] == sum(map(len, wanted))


async def test_token_ids_are_no_values_of_the_body(pooling_client: Client, pool: FakePool) -> None:
    """Clients tokenize by themselves and send hundreds of texts of hundreds of tokens."""
    response, body = await embed(pooling_client, input=[[5] * 60] * 2000)
    assert response.status_code == 200
    assert len(body["data"]) == len(pool.encoded) == 2000
    assert (await rejection(pooling_client, input=[5] * 200_000))["param"] == "input_tokens"


async def test_chats(pooling_client: Client, pooling_text: ModelTokenizer, pool: FakePool) -> None:
    chat = [{"role": "user", "content": "Hello"}]
    for field in ("messages", "input"):
        for given, count in ((chat, 1), ([chat, chat], 2)):
            _, body = await embed(pooling_client, **{field: given})
            assert len(body["data"]) == count
    shown = pooling_text.backend.decode(pool.encoded[0].prompt_token_ids, skip_special_tokens=False)
    assert shown.endswith("user\nHello<|im_end|>\n")
    assert len({request.prompt_token_ids for request in pool.encoded}) == 1
    await embed(pooling_client, messages=chat, add_generation_prompt=True)
    shown = pooling_text.backend.decode(
        pool.encoded[-1].prompt_token_ids, skip_special_tokens=False
    )
    assert shown.endswith("assistant\n")


async def test_encoded_numbers(pooling_client: Client) -> None:
    _, plain = await embed(pooling_client, input=["Hello", TEXT])
    vectors = [item["embedding"] for item in plain["data"]]
    for endianness, order in (("native", "="), ("little", "<"), ("big", ">")):
        fields = {"input": ["Hello", TEXT], "endianness": endianness}
        _, body = await embed(pooling_client, **fields, encoding_format="base64")
        data = [base64.b64decode(item["embedding"]) for item in body["data"]]
        assert [list(struct.unpack(f"{order}3f", each)) for each in data] == vectors
        response = await pooling_client.post(
            "/v1/embeddings", json={**fields, "encoding_format": "bytes"}
        )
        assert response.content_type == "application/octet-stream"
        octets = await response.get_data(as_text=False)
        metadata = json.loads(response.headers["metadata"])
        assert metadata["usage"] == {
            key: plain["usage"][key] for key in ("prompt_tokens", "total_tokens")
        }
        for item, each in zip(metadata["data"], data, strict=True):
            assert octets[item["start"] : item["end"]] == each
            assert (item["shape"], item["embed_dtype"]) == ([3], "float32")
        response = await pooling_client.post(
            "/v1/embeddings", json={**fields, "encoding_format": "bytes_only"}
        )
        assert await response.get_data(as_text=False) == b"".join(data)
        assert "metadata" not in response.headers


async def test_the_format_is_the_workers_unless_numbers_are_json(
    pooling_client: Client, pool: FakePool
) -> None:
    for encoding in ("float", "base64"):
        await embed(pooling_client, input="a", embed_dtype="float16", encoding_format=encoding)
    assert [request.number_format for request in pool.encoded] == ["float32", "float16"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "body.input"),
        ({"input": None}, "body.input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", 1]}, "body.input"),
        ({"input": [[1], "a"]}, "body.input"),
        ({"input": [[1.5]]}, "body.input"),
        ({"input": {"a": 1}}, "body.input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [[99999]]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "body.encoding_format"),
        ({"input": "a", "embed_dtype": "int8"}, "body.embed_dtype"),
        ({"input": "a", "dimensions": 2}, None),
        ({"input": "a", "dimensions": "2"}, "body.dimensions"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": 65}, "truncate_prompt_tokens"),
        ({"input": "a", "prompt_name": "other"}, "prompt_name"),
        ({"input": "a", "padding": "max_length"}, "padding"),
        ({"input": "a", "normalize": True}, "normalize"),
        ({"input": "Hello " * 100}, "input_tokens"),
        ({"input": ["Hello", "Hello " * 5000]}, "input_tokens"),
        ({"input": [[5] * 65]}, "input_tokens"),
        ({"messages": []}, None),
        ({"messages": [{"role": "user", "content": "Hello " * 100}]}, "input_tokens"),
    ],
)
async def test_what_cannot_be_embedded_names_its_field(
    pooling_client: Client, pool: FakePool, fields: dict[str, Any], param: str | None
) -> None:
    assert (await rejection(pooling_client, **fields))["param"] == param
    assert pool.encoded == []


@pytest.mark.parametrize("side", ["right", "left", None])
async def test_truncation_keeps_the_special_tokens(
    pooling_client: Client, pooling_text: ModelTokenizer, pool: FakePool, side: str | None
) -> None:
    text = "Hello " * 100 + TEXT
    inner = pooling_text.backend.encode(text, add_special_tokens=False).ids
    for count in (-1, 10):
        fields = {"truncate_prompt_tokens": count, "truncation_side": side}
        await embed(pooling_client, input=text, **fields)
        kept = (64 if count == -1 else count) - 2
        part = inner[-kept:] if side == "left" else inner[:kept]
        assert pool.encoded[-1].prompt_token_ids == (1, *part, 2)
    await embed(pooling_client, input=[5, 6, 7], truncate_prompt_tokens=2, truncation_side=side)
    assert pool.encoded[-1].prompt_token_ids == ((6, 7) if side == "left" else (5, 6))


async def test_texts_are_cut_on_the_tokenizers_side(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    client = client_of(make_app, pooling_text, tasks=("embed",), truncation_side="left")
    text = "Hello " * 500 + TEXT
    inner = pooling_text.backend.encode(text, add_special_tokens=False).ids
    for side in (None, "left", "right"):
        await embed(client, input=text, truncate_prompt_tokens=-1, truncation_side=side)
        part = inner[:62] if side == "right" else inner[-62:]
        assert pool.encoded[-1].prompt_token_ids == (1, *part, 2)


async def test_prompts_by_name(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    info = pooling_text.info.pooling
    assert info is not None
    default = info.model_copy(update={"default_prompt": "query", "includes_prompt": False})
    texts = pooling_text.info.model_copy(update={"pooling": default})
    client = make_app(model=ModelTokenizer(texts, pooling_text.backend)).test_client()
    for name in (None, "document", ""):
        await embed(client, input="Hello", prompt_name=name)
    with_prompt, plain = ids_of(pooling_text, "capital Hello", "Hello")
    assert [each.prompt_token_ids for each in pool.encoded] == [with_prompt, plain, plain]
    prompt = pooling_text.backend.encode("capital ", add_special_tokens=False).ids
    assert [each.prompt_length for each in pool.encoded] == [1 + len(prompt), 0, 0]
    await embed(client, input=[5, 6])  # ids are the whole text
    assert pool.encoded[-1].prompt_token_ids == (5, 6)


async def test_a_prompt_that_is_left_out_counts_as_by_itself(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    """Even where a token lies across its end, as sentence-transformers counts."""
    encode = pooling_text.backend.encode
    cuts = [(TEXT[:end], TEXT[end:]) for end in range(1, len(TEXT) // 2)]
    across = [
        (prompt, rest)
        for prompt, rest in cuts
        if all(end != len(prompt) for _, end in encode(TEXT, add_special_tokens=False).offsets)
    ]
    prompt, rest = across[-1]
    info = {"includes_prompt": False, "default_prompt": "x", "prompts": {"x": prompt}}
    client = client_of(make_app, pooling_text, tasks=("embed",), **info)
    await embed(client, input=rest)
    (request,) = pool.encoded
    assert request.prompt_token_ids == ids_of(pooling_text, TEXT)[0]
    alone = encode(prompt, add_special_tokens=False).ids
    assert request.prompt_length == 1 + len(alone)  # with the special token before it
    assert tuple(alone) != request.prompt_token_ids[1 : 1 + len(alone)]


async def test_an_answer_has_an_item_for_each_text(pooling_client: Client) -> None:
    """OpenAI's client raises if there is none: a request without texts must be an error."""
    for count in (1, 2, 300):
        _, body = await embed(pooling_client, input=["a"] * count)
        assert [item["index"] for item in body["data"]] == list(range(count))
    empties: list[list[list[int]]] = [[], [[]], [[5], []]]
    for empty in empties:
        assert (await rejection(pooling_client, input=empty))["param"] == "input"


@pytest.mark.parametrize(("dimensions", "status"), [((), 200), ((2,), 200), ((1, 3), 400)])
async def test_dimensions_of_models_that_allow_it(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, dimensions: tuple[int, ...], status: int
) -> None:
    info = PoolingInfo(tasks=("embed",), size=3, dimensions=dimensions)
    texts = pooling_text.info.model_copy(update={"pooling": info})
    client = make_app(model=ModelTokenizer(texts, pooling_text.backend)).test_client()
    response, body = await embed(client, input="a", dimensions=2)
    assert response.status_code == status
    if status == 200:
        assert len(body["data"][0]["embedding"]) == 2
    for wrong in (0, 4, -1):
        assert "dimensions" in (await rejection(client, input="a", dimensions=wrong))["message"]


async def test_texts_in_lower_case(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    info = PoolingInfo(tasks=("embed",), size=3, lowercases=True)
    texts = pooling_text.info.model_copy(update={"pooling": info})
    client = make_app(model=ModelTokenizer(texts, pooling_text.backend)).test_client()
    await embed(client, input=TEXT)
    assert [pool.encoded[0].prompt_token_ids] == ids_of(pooling_text, TEXT.lower())


async def test_whose_work_it_is(pooling_client: Client, pool: FakePool) -> None:
    await embed(pooling_client, input="a", user="u", priority=7, use_activation=False)
    (request,) = pool.encoded
    assert (request.tenant, request.user, request.priority) == ("u", "", 7)
    assert (request.task, request.activates) == ("embed", False)


async def test_failures_of_workers(pooling_client: Client, pool: FakePool) -> None:
    pool.error = "input: no numbers"
    error = await rejection(pooling_client, input=["a", "b"])
    assert (error["message"], error["param"]) == (pool.error, "input")
    chat = [{"role": "user", "content": "a"}]
    assert (await rejection(pooling_client, messages=chat))["param"] == "messages"
    pool.reason = "error"
    response, _ = await embed(pooling_client, input="a")
    assert response.status_code == 500


async def test_a_request_that_takes_too_long_is_cancelled(
    pooling_client: Client, pool: FakePool
) -> None:
    pool.hold_after = 0
    response = await pooling_client.post(
        "/v1/embeddings", json={"input": ["a", "b"]}, headers={"X-Request-Timeout-Ms": "50"}
    )
    assert response.status_code == 504
    assert [each.cancelled for each in pool.encodings] == [True, True]


async def test_texts_may_end_at_different_times(pooling_client: Client, pool: FakePool) -> None:
    pool.hold_after, pool.hold_from = 0, 1
    task = asyncio.ensure_future(embed(pooling_client, input=["a", "b"]))
    asyncio.get_running_loop().call_later(0.1, pool.release.set)
    response, body = await task
    assert (response.status_code, len(body["data"])) == (200, 2)


async def test_models_say_what_they_do(
    pooling_client: Client, client: Client, pool: FakePool
) -> None:
    card = await (await pooling_client.get("/v1/models/smol")).get_json()
    assert card["tasks"] == ["embed", "token_embed"]
    assert (await (await client.get("/v1/models/smol")).get_json())["tasks"] == ["generate"]
    for response, body in (
        await ask(pooling_client),
        await complete(pooling_client, prompt="a"),
        await embed(client, input="a"),
    ):
        assert (response.status_code, body["detail"]) == (404, "Not Found")
        does = "generate" if body is not None and "embed:" in body["error"]["message"] else "embed"
        assert f"what it does is {does}" in body["error"]["message"]
        assert body["error"]["param"] == "model"
    assert pool.encoded == []
    assert pool.requests == []


async def test_invocations(pooling_client: Client, client: Client, pool: FakePool) -> None:
    chat = [{"role": "user", "content": "Hello"}]
    for fields in ({"input": "a"}, {"messages": chat}):
        body = await (await pooling_client.post("/invocations", json=fields)).get_json()
        assert body["data"][0]["object"] == "embedding"
    assert (await client.post("/invocations", json={"input": "a"})).status_code == 400
    assert len(pool.encoded) == 2


async def test_metrics(pooling_client: Client) -> None:
    await embed(pooling_client, input=["Hello", TEXT])
    found = numbers(await (await pooling_client.get("/metrics")).get_data(as_text=True))
    labels = 'engine="0",model_name="smol"'
    ended = '{engine="0",finished_reason="stop",model_name="smol"}'
    assert found[f"headrace:request_success_total{ended}"] == 2
    assert found[f"headrace:prompt_tokens_total{{{labels}}}"] > 4
    assert found[f"headrace:generation_tokens_total{{{labels}}}"] == 0
    assert found[f"headrace:request_params_max_tokens_count{{{labels}}}"] == 0


async def test_openais_client_decodes_what_it_asks_for(
    make_app: MAKE_APP, pooling_text: ModelTokenizer
) -> None:
    app = make_app(model=pooling_text, engine=EngineConfig(runner="pooling"))
    async with app.test_app():
        transport = httpx2.ASGITransport(app)  # type: ignore[arg-type]
        http_client = httpx2.AsyncClient(transport=transport)
        async with AsyncOpenAI(
            base_url="http://test/v1", api_key="none", http_client=http_client, max_retries=0
        ) as client:
            by_default = await client.embeddings.create(model="smol", input=["a", TEXT])
            plain = await client.embeddings.create(
                model="smol", input=["a", TEXT], encoding_format="float"
            )
    assert [each.embedding for each in by_default.data] == [each.embedding for each in plain.data]
    assert by_default.usage.prompt_tokens == plain.usage.prompt_tokens > 0
