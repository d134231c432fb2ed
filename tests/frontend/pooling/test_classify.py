"""/classify: the likeliest label of each text, and the numbers of all."""

from array import array
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.text import PoolingInfo
from headrace.protocol.to_frontend import Pooled
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool


@pytest.fixture
def classifying(make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool) -> Client:
    info = PoolingInfo(tasks=("classify",), size=2, labels=("good", "bad"))
    texts = pooling_text.info.model_copy(update={"pooling": info})
    pool.numbers = lambda request: Pooled(
        array("f", (0.25, 0.75) if len(request.prompt_token_ids) > 3 else (0.5, 0.5)).tobytes(),
        (2,),
    )
    return make_app(model=ModelTokenizer(texts, pooling_text.backend)).test_client()


async def classify(client: Client, **fields: Any) -> tuple[int, dict[str, Any]]:
    response = await client.post("/classify", json=fields)
    return response.status_code, await response.get_json()


async def test_labels(classifying: Client, pool: FakePool) -> None:
    status, body = await classify(classifying, input=["Hello", "Hello world again"])
    assert status == 200
    first, second = body["data"]
    assert first == {"index": 0, "label": "good", "probs": [0.5, 0.5], "num_classes": 2}
    assert (second["label"], second["probs"]) == ("bad", [0.25, 0.75])
    assert body["id"].startswith("classify-")
    assert body["object"] == "list"
    assert body["usage"]["prompt_tokens"] == sum(len(e.prompt_token_ids) for e in pool.encoded)
    assert {request.task for request in pool.encoded} == {"classify"}


async def test_ids_and_chats(classifying: Client) -> None:
    _, body = await classify(classifying, input=[5, 6, 7, 8])
    assert body["data"][0]["label"] == "bad"
    messages = [{"role": "user", "content": "Hello"}]
    _, body = await classify(classifying, messages=messages, use_activation=False)
    assert [item["label"] for item in body["data"]] == ["bad"]


async def test_bad_input(classifying: Client, pooling_client: Client) -> None:
    status, body = await classify(classifying, input=[])
    assert (status, body["error"]["param"]) == (400, "input")
    status, body = await classify(classifying)
    assert (status, body["error"]["param"]) == (400, "body.input")
    status, body = await classify(pooling_client, input="a")
    assert (status, body["detail"]) == (404, "Not Found")
    assert "embed, token_embed" in body["error"]["message"]
    response = await classifying.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == 404
