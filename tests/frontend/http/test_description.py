"""What the API's description says of answers, held against the answers."""

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.text import PoolingInfo
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.speech.conftest import form
from tests.frontend.speech.models import (
    PATH,
    TRANSLATIONS,
    FakeRecordings,
    FakeSource,
    Workers,
    speech_text,
)

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
MESSAGES = {**CHAT, "model": "smol"}
# (method, path, body): a request that is answered, and one that is not.
ANSWERED = [
    ("post", "/v1/chat/completions", CHAT),
    ("post", "/v1/chat/completions/batch", {"messages": [CHAT["messages"]] * 2}),
    ("post", "/v1/completions", {"prompt": "Hi"}),
    ("post", "/v1/messages", {**MESSAGES, "max_tokens": 9}),
    ("post", "/v1/messages/count_tokens", MESSAGES),
    ("post", "/v1/responses/input_tokens", {"input": "Hi"}),
    ("post", "/v1/conversations", {"metadata": {"a": "b"}}),
    ("post", "/invocations", CHAT),
    ("post", "/invocations", {"prompt": "Hi"}),
    ("post", "/tokenize", {"prompt": "Hi"}),
    ("post", "/tokenize", CHAT),
    ("post", "/detokenize", {"tokens": [5]}),
    ("get", "/v1/models", None),
    ("get", "/v1/models/smol", None),
    ("get", "/version", None),
    ("get", "/load", None),
]
# The same of models that pool, and of models that generate.
POOLED = [
    ("post", "/v1/embeddings", {"input": "Hi"}),
    ("post", "/classify", {"input": "Hi"}),
    ("post", "/pooling", {"input": "Hi"}),
    *[("post", path, {"text_1": "a", "text_2": ["b", "c"]}) for path in ("/score", "/v1/score")],
    *[
        ("post", path, {"query": "a", "documents": ["b", "c"]})
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    ],
    ("post", "/v2/embed", {"texts": ["Hi"], "embedding_types": ["float", "base64"]}),
]
# The forms of models that transcribe.
TRANSCRIBED = [
    *[("post", path, {"language": "en"}) for path in (PATH, TRANSLATIONS)],
    ("post", PATH, {"language": "en", "include[]": "logprobs"}),
    ("post", PATH, {"language": "en", "response_format": "verbose_json"}),
]
REFUSED = [
    *[
        (method, path, {"nope": 1} if path != "/v1/conversations" else {"items": 1})
        for method, path, body in ANSWERED
        if body
    ],
    ("post", "/v1/messages", {**MESSAGES, "max_tokens": 9, "model": "nope"}),
    ("post", "/v1/messages/count_tokens", {**MESSAGES, "model": "nope"}),
    ("get", "/v1/models/nope", None),
]


_descriptions: list[dict[str, Any]] = []


async def described_by(client: Client) -> dict[str, Any]:
    """The description, which is the same in each test and takes a while to make."""
    if not _descriptions:
        _descriptions.append(await (await client.get("/openapi.json")).get_json())
    return _descriptions[0]


def fitting(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    """Where a value is not as a schema describes it: names that only one of them has."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return min((fitting(value, one, schemas) for one in schema["anyOf"]), key=len)
    if isinstance(value, list) and "items" in schema:
        return [fault for item in value for fault in fitting(item, schema["items"], schemas)]
    if not isinstance(value, dict) or "properties" not in schema:
        return [] if _is_of(value, schema.get("type")) else [f"{value!r} is no {schema['type']}"]
    known = schema["properties"]
    faults = [f"{name} is not described" for name in value if name not in known]
    faults += [f"no {name}" for name in schema.get("required", []) if name not in value]
    for name in value.keys() & known.keys():
        faults += [f"{name}: {fault}" for fault in fitting(value[name], known[name], schemas)]
    return faults


def _is_of(value: Any, kind: str | None) -> bool:
    kinds = {
        "string": str,
        "integer": int,
        "null": type(None),
        "object": dict,
        "array": list,
        "boolean": bool,
    }
    return kind not in kinds or isinstance(value, kinds[kind])


@pytest.mark.parametrize(("method", "path", "body"), [*ANSWERED, *REFUSED])
async def test_answers_are_as_they_are_described(
    client: Client, method: str, path: str, body: dict[str, list[dict[str, str]]] | None
) -> None:
    description = await described_by(client)
    response = await getattr(client, method)(path, **({"json": body} if body else {}))
    assert (response.status_code == 200) == ((method, path, body) in ANSWERED)
    rule = path if path in description["paths"] else "/v1/models/{model_id}"
    described = description["paths"][rule][method]["responses"]
    schema = described[str(response.status_code)]["content"]["application/json"]["schema"]
    schemas = description["components"]["schemas"]
    assert fitting(await response.get_json(), schema, schemas) == []


@pytest.mark.parametrize(("method", "path", "body"), POOLED)
async def test_answers_of_models_that_pool(
    make_app: MAKE_APP,
    pooling_text: ModelTokenizer,
    client: Client,
    method: str,
    path: str,
    body: dict[str, object],
) -> None:
    info = PoolingInfo(tasks=("embed", "classify"), size=3, labels=("a", "b", "c"))
    texts = pooling_text.info.model_copy(update={"pooling": info})
    pooling = make_app(model=ModelTokenizer(texts, pooling_text.backend)).test_client()
    description = await described_by(client)
    for asked, status in ((pooling, 200), (client, 404)):
        response = await getattr(asked, method)(path, json=body)
        assert response.status_code == status
        described = description["paths"][path][method]["responses"][str(status)]
        schema = described["content"]["application/json"]["schema"]
        schemas = description["components"]["schemas"]
        assert fitting(await response.get_json(), schema, schemas) == []


@pytest.mark.parametrize(("method", "path", "body"), TRANSCRIBED)
async def test_answers_of_models_that_transcribe(
    make_app: MAKE_APP,
    pool: FakePool,
    client: Client,
    method: str,
    path: str,
    body: dict[str, str],
) -> None:
    model = speech_text()
    speech = make_app(model=model, recordings=FakeSource(FakeRecordings())).test_client()
    description = await described_by(client)
    Workers(model, lambda window, request: [0.0, " Paris.", 1.0]).join(pool)
    for asked, status in ((speech, 200), (client, 404)):
        response = await getattr(asked, method)(path, **form(**body))
        assert response.status_code == status
        described = description["paths"][path][method]["responses"][str(status)]
        schema = described["content"]["application/json"]["schema"]
        schemas = description["components"]["schemas"]
        assert fitting(await response.get_json(), schema, schemas) == []


async def test_every_answer_in_json_is_held_against_its_description(client: Client) -> None:
    description = await described_by(client)
    answered = [*ANSWERED, *POOLED, *TRANSCRIBED]
    tried = {(method, path.replace("/smol", "/{model_id}")) for method, path, _ in answered}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            content = operation["responses"]["200"].get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            if "properties" in schema or "$ref" in schema or "anyOf" in schema:
                assert (method, path) in tried
