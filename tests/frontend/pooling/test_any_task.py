"""/pooling: the numbers of any task that a model does."""

import base64
import json
import struct
from array import array
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.to_frontend import Pooled
from headrace.protocol.to_worker import Encode
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.pooling.models import client_of, post, rejected


def of_tokens(request: Encode) -> Pooled:
    """Two numbers for each token, or for the text."""
    ids = request.prompt_token_ids
    if request.task.startswith("token_"):
        flat = [number for place, _ in enumerate(ids) for number in (place, 0.5)]
        return Pooled(array("f", flat).tobytes(), (len(ids), 2))
    return Pooled(array("f", (len(ids), 0.5)).tobytes(), (2,))


@pytest.fixture
def embedder(make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool) -> Client:
    pool.numbers = of_tokens
    return client_of(make_app, pooling_text, tasks=("embed", "token_embed"))


@pytest.mark.parametrize("task", [None, "embed", "token_embed"])
async def test_tasks(embedder: Client, pool: FakePool, task: str | None) -> None:
    fields = {} if task is None else {"task": task}
    status, body = await post(embedder, "/pooling", input=["Hello", "Hello you"], **fields)
    assert status == 200
    assert body["id"].startswith("pooling-")
    assert [item["object"] for item in body["data"]] == ["pooling", "pooling"]
    counts = [len(request.prompt_token_ids) for request in pool.encoded]
    for item, count in zip(body["data"], counts, strict=True):
        rows = [[place, 0.5] for place in range(count)]
        assert item["data"] == (rows if task == "token_embed" else [count, 0.5])
    assert {request.task for request in pool.encoded} == {task or "embed"}
    assert body["usage"]["prompt_tokens"] == sum(counts)


async def test_encoded_numbers_of_tokens(embedder: Client, pool: FakePool) -> None:
    fields = {"input": ["Hello", "Hello you"], "task": "token_embed"}
    _, body = await post(embedder, "/pooling", **fields, encoding_format="base64")
    octets = [base64.b64decode(item["data"]) for item in body["data"]]
    wanted = [of_tokens(request).data for request in pool.encoded]
    assert octets == wanted
    big = {**fields, "encoding_format": "bytes", "endianness": "big"}
    response = await embedder.post("/pooling", json=big)
    metadata = json.loads(response.headers["metadata"])
    data = await response.get_data(as_text=False)
    for item, each in zip(metadata["data"], wanted, strict=True):
        rows, width = item["shape"]
        assert width == 2
        numbers = struct.unpack(f">{rows * width}f", data[item["start"] : item["end"]])
        assert list(numbers) == array("f", each).tolist()


@pytest.mark.parametrize("tasks", [("classify", "score"), ("token_classify",), ("token_embed",)])
async def test_the_first_task_is_the_models(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool, tasks: tuple[str, ...]
) -> None:
    client = client_of(make_app, pooling_text, tasks=tasks)
    messages = [{"role": "user", "content": "Hello"}]
    for fields in ({"input": "Hello"}, {"messages": messages}, {"input": [5, 6]}):
        status, _ = await post(client, "/pooling", **fields)
        assert status == 200
    assert {request.task for request in pool.encoded} == {tasks[0]}
    assert len(pool.encoded) == 3
    status, body = await post(client, "/v1/embeddings", input="a")
    assert (status, body["detail"]) == (404, "Not Found")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "body.input"),
        ({"input": []}, "input"),
        ({"input": "a", "task": "classify"}, "task"),
        ({"input": "a", "task": "score"}, "task"),
        ({"input": "a", "task": "encode"}, "task"),
        ({"input": "a", "task": "plugin"}, "task"),
        ({"input": "a", "task": 1}, "body.task"),
        ({"input": "a", "dimensions": 2}, "dimensions"),
        ({"input": "Hello " * 100}, "input_tokens"),
    ],
)
async def test_bad_input(
    embedder: Client, pool: FakePool, fields: dict[str, Any], param: str
) -> None:
    assert await rejected(embedder, "/pooling", **fields) == param
    assert pool.encoded == []


async def test_numbers_of_tokens_are_bounded(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool
) -> None:
    """An answer with those of many long texts would be gigabytes of JSON."""
    pool.numbers = of_tokens
    for task in ("token_embed", "token_classify"):
        client = client_of(make_app, pooling_text, tasks=(task,), max_numbers=12)
        status, _ = await post(client, "/pooling", input=[[5, 6], [7, 8]])
        assert status == 200
        count = len(pool.encoded)
        assert await rejected(client, "/pooling", input=[[5, 6], [7, 8, 9]]) == "input"
        assert await rejected(client, "/pooling", input=[[5] * 5]) == "input"
        assert len(pool.encoded) == count
    client = client_of(make_app, pooling_text, tasks=("token_embed",), max_numbers=12)
    assert await rejected(client, "/score", text_1=["Hello"] * 5, text_2=["Hello"] * 5) == "text_1"
    embedder = client_of(make_app, pooling_text, tasks=("embed",), max_numbers=2)
    status, _ = await post(embedder, "/v1/embeddings", input=["Hello"] * 9)
    assert status == 200


async def test_invocations_go_by_the_model(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, client: Client
) -> None:
    for tasks, fields, kind in (
        (("embed", "token_embed"), {}, "embd"),
        (("embed", "token_embed"), {"task": "token_embed"}, "pooling"),
        (("classify",), {}, "classify"),
        (("token_classify",), {}, "pooling"),
        (("token_embed",), {}, "pooling"),
    ):
        asked = client_of(make_app, pooling_text, tasks=tasks, labels=("a", "b", "c"))
        status, body = await post(asked, "/invocations", input="Hello", **fields)
        assert status == 200
        assert body["id"].startswith(f"{kind}-")
    status, body = await post(client, "/pooling", input="Hello")
    assert (status, body["detail"]) == (404, "Not Found")
