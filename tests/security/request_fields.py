"""All fields of all request bodies in JSON, as the server's own OpenAPI document describes them."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from quart.typing import TestClientProtocol as Client

JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "Hi"}
# A request that each route answers, or refuses for what does not exist.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER], "max_tokens": 3},
    "/v1/chat/completions/batch": {"messages": [[USER]], "max_tokens": 3},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 3},
    "/v1/messages": {"model": "smol", "max_tokens": 3, "messages": [USER]},
    "/v1/messages/count_tokens": {"model": "smol", "messages": [USER]},
    "/v1/responses": {"input": "Hi", "store": False},
    "/v1/responses/compact": {"input": "Hi"},
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [5]},
    "/invocations": {"prompt": "Hi"},
    "/v1/embeddings": {"input": "Hi"},
    "/pooling": {"input": "Hi"},
    "/classify": {"input": "Hi"},
    "/score": {"text_1": "Hi", "text_2": "Ho"},
    "/v1/score": {"text_1": "Hi", "text_2": "Ho"},
    "/rerank": {"query": "Hi", "documents": ["Ho"]},
    "/v1/rerank": {"query": "Hi", "documents": ["Ho"]},
    "/v2/rerank": {"query": "Hi", "documents": ["Ho"]},
    "/v2/embed": {"texts": ["Hi"], "embedding_types": ["float"]},
    "/v1/conversations": {"items": []},
    "/v1/conversations/{conversation_id}": {"metadata": {}},
    "/v1/conversations/{conversation_id}/items": {"items": []},
    "/v1/decisions": {
        "model": "smol",
        "input": "x",
        "questions": [{"type": "predicate", "instructions": "is it?"}],
    },
    "/v1/systemone": {"state": "x", "questions": {"a": {"type": "noul", "instructions": "?"}}},
    "/v1/batches": {
        "input_file_id": "file-1",
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    },
    "/abort_requests": {"request_ids": "all"},
    "/collective_rpc": {"method": "ping"},
    "/scale_elastic_ep": {"new_data_parallel_size": 1},
    "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "/nowhere"},
    "/v1/unload_lora_adapter": {"lora_name": "a"},
}
Part = str | int


class Field(NamedTuple):
    """A field of a route's body. types: as JSON schemas name them; "any" where it says nothing."""

    route: str
    path: tuple[Part, ...]
    types: frozenset[str]

    def body(self, value: str) -> bytes:
        """Return a body as JSON that has a value, given as JSON, in this field."""
        body = copy.deepcopy(BODIES[self.route])
        shown: Any = "@@"
        for part in reversed(self.path[1:]):
            shown = [shown] if part == 0 else {part: shown}
        body[str(self.path[0])] = shown
        return json.dumps(body).replace('"@@"', value).encode()


async def request_fields(client: Client) -> list[Field]:
    """Return the fields of all bodies. Each route with one in JSON must be in BODIES; forms have
    tests of their own (tests/frontend/speech, tests/frontend/files)."""
    document = await (await client.get("/openapi.json")).get_json()
    found: dict[tuple[str, tuple[Part, ...]], set[str]] = {}
    routes = {
        path
        for path, item in document["paths"].items()
        if "application/json" in _post(item).get("requestBody", {}).get("content", {})
    }
    assert routes == set(BODIES) & set(document["paths"]), routes ^ set(BODIES)
    for route in sorted(routes):
        content = _post(document["paths"][route])["requestBody"]["content"]
        for path, types in _fields(document, content["application/json"]["schema"], ()):
            found.setdefault((route, path), set()).update(types)
    return [Field(route, path, frozenset(types)) for (route, path), types in found.items()]


def url_of(route: str) -> str:
    """Return a route with a value for each of its variables."""
    return re.sub(r"\{\w+\}", "nope", route)


def _post(item: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = item.get("post", {})
    return operation


def _fields(
    document: dict[str, Any], schema: dict[str, Any], seen: tuple[str, ...]
) -> Iterator[tuple[tuple[Part, ...], set[str]]]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            yield from _fields(document, document["components"]["schemas"][name], (*seen, name))
        return
    for keyword in ("anyOf", "oneOf", "allOf"):
        for alternative in schema.get(keyword, ()):
            yield from _fields(document, alternative, seen)
    for name, inner in schema.get("properties", {}).items():
        yield (name,), _types(inner)
        yield from (((name, *rest), types) for rest, types in _fields(document, inner, seen))
    if isinstance(schema.get("items"), dict):
        yield from (((0, *path), types) for path, types in _fields(document, schema["items"], seen))


def _types(schema: dict[str, Any]) -> set[str]:
    alternatives = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if alternatives:
        return set().union(*map(_types, alternatives))
    if "enum" in schema or "const" in schema:
        return {"string"}
    return {schema.get("type", "any")}
