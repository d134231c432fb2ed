"""The rules for answers to made-up requests, and the bodies that are made up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, find, settings

from bench.fuzz.bodies import bodies
from bench.fuzz.requests import RuleBroken, check, routes

CHAT = "/v1/chat/completions"
ERROR = {"message": "m", "type": "t", "param": None, "code": 400}
ANTHROPIC = {"type": "error", "error": {"type": "t", "message": "m"}, "request_id": "r"}
STREAM = {"content-type": "text/event-stream; charset=utf-8"}


@contextmanager
def allowed(is_allowed: bool) -> Iterator[None]:
    if is_allowed:
        yield
        return
    with pytest.raises(RuleBroken):
        yield


@pytest.mark.parametrize(
    ("path", "status", "body", "is_allowed"),
    [
        (CHAT, 200, {"id": "x"}, True),
        (CHAT, 400, {"error": ERROR}, True),
        (CHAT, 500, {"error": {**ERROR, "code": 500}}, False),
        (CHAT, 404, {"error": ERROR}, False),
        (CHAT, 400, {"detail": "x"}, False),
        (CHAT, 400, {"error": {"message": "m"}}, False),
        (CHAT, 400, {"error": {**ERROR, "message": "Traceback (most recent call last)"}}, False),
        ("/v1/messages", 400, ANTHROPIC, True),
        ("/v1/messages/count_tokens", 400, {"error": ERROR}, False),
    ],
)
def test_answers(path: str, status: int, body: dict[str, Any], is_allowed: bool) -> None:
    with allowed(is_allowed):
        check(path, httpx.Response(status, json=body))


@pytest.mark.parametrize(
    ("path", "text", "is_allowed"),
    [
        (CHAT, 'data: {"a": 1}\n\ndata: [DONE]\n\n', True),
        (CHAT, 'data: {"a": 1}\n\n', False),
        (CHAT, "data: [DONE]", False),
        (CHAT, 'data: {"error":{"code":500}}\n\ndata: [DONE]\n\n', False),
        ("/v1/messages", 'event: message_stop\ndata: {"type": "message_stop"}\n\n', True),
        ("/v1/messages", "event: error\ndata: {}\n\n", False),
    ],
)
def test_streams(path: str, text: str, is_allowed: bool) -> None:
    with allowed(is_allowed):
        check(path, httpx.Response(200, text=text, headers=STREAM))


SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["model", "items"],
    "properties": {
        "model": {"type": "string"},
        "items": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
        "max_tokens": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "refused": {"default": None},
    },
}
ITEM = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}, "inner": {"$ref": "x/Item"}}}
DRAWN = bodies(SCHEMA, {"Item": ITEM}, "smol")


@pytest.mark.parametrize(
    "kind",
    [
        lambda body: body["model"] == "smol" and body["items"][0]["kind"] == "b",
        lambda body: body["max_tokens"] in range(1, 9),
        lambda body: bool(body.keys() - SCHEMA["properties"].keys()),
        lambda body: not isinstance(body["model"], str),
        lambda body: body["items"][0]["inner"]["inner"]["kind"] == "a",
    ],
    ids=["valid", "little work", "unknown field", "wrong type", "deep"],
)
def test_bodies_of_each_kind_come(kind: Any) -> None:
    def is_kind(body: Any) -> bool:
        try:
            return bool(kind(body))
        except (KeyError, IndexError, TypeError, AttributeError):
            return False

    first = settings(
        max_examples=5000,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    assert find(DRAWN, is_kind, settings=first) is not None


def test_routes_are_those_with_a_body() -> None:
    content = {"content": {"application/json": {"schema": SCHEMA}}}
    paths = {"/a": {"post": {"requestBody": content}, "get": {}}, "/b": {"get": {}}}
    assert routes({"paths": paths}, "") == [("post", "/a", SCHEMA)]
    assert routes({"paths": paths}, "/b") == []
