"""Fields that no model knows: ignored and named, in bounds, or rejected with `strict_fields`."""

import json
import logging
from typing import Any

import pytest
from quart import Response
from quart.typing import TestClientProtocol as Client

from headrace.frontend.middleware.ignored_fields import IgnoredFieldLog, header_value
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

HEADER = "X-Headrace-Ignored-Fields"
CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
PLAIN: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [USER]},
    "/v1/chat/completions/batch": {"messages": [[USER]]},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/messages": {"model": "smol", "max_tokens": 5, "messages": [USER]},
    "/v1/messages/count_tokens": {"model": "smol", "messages": [USER]},
    "/v1/responses": {"input": "Hello"},
    "/invocations": {"prompt": "Hello"},
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [5]},
}


async def post(client: Client, path: str, body: dict[str, Any]) -> tuple[Response, Any]:
    response = await client.post(path, json=body)
    data = await response.get_data(as_text=True)
    return response, data if data.startswith(("data:", "event:")) else json.loads(data)


@pytest.mark.parametrize("path", PLAIN)
async def test_unknown_fields_are_ignored_and_named(client: Client, path: str) -> None:
    response, body = await post(client, path, PLAIN[path])
    assert response.status_code == 200, body
    assert HEADER not in response.headers
    response, body = await post(client, path, {**PLAIN[path], "nonsense": {"a": [1]}, "x-y.z": 1})
    assert response.status_code == 200, body
    assert response.headers[HEADER] == "nonsense, x-y.z"


IN_DEPTH: list[tuple[dict[str, Any], str]] = [
    (
        {"messages": [{"role": "assistant", "content": "x", "parsed": None}, USER]},
        "messages.parsed",
    ),
    ({"messages": [USER, {**USER, "a": 1}, {**USER, "a": 2}]}, "messages.a"),
    (
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            **CALL,
                            "extra_content": {},
                            "function": {**CALL["function"], "parsed_arguments": {}},  # type: ignore[dict-item]
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "x"},
            ]
        },
        "messages.tool_calls.extra_content, messages.tool_calls.function.parsed_arguments",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}
            ]
        },
        "messages.content.cache_control",
    ),
    (
        {
            "tools": [{"type": "function", "function": FUNCTION, "defer_loading": True}],
            "tool_choice": "none",
        },
        "tools.defer_loading",
    ),
    (
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        "stream_options.include_obfuscation",
    ),
    ({"structured_outputs": {"choice": ["a"], "b": 1}}, "structured_outputs.b"),
    (
        {
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": {"type": "function", "function": {"name": "f", "x": 1}, "y": 2},
        },
        "tool_choice.y, tool_choice.function.x",
    ),
]


@pytest.mark.parametrize(("fields", "named"), IN_DEPTH, ids=[named for _, named in IN_DEPTH])
async def test_unknown_fields_at_any_depth(
    client: Client, fields: dict[str, Any], named: str
) -> None:
    response, body = await post(client, CHAT, {**PLAIN[CHAT], **fields})
    assert response.status_code == 200, body
    assert response.headers[HEADER] == named


OF_OTHER_SERVERS: dict[str, Any] = {
    "enable_thinking": False,
    "thinking": {"type": "disabled"},
    "reasoning": {"effort": "high", "exclude": True},
    "guided_json": {"type": "object"},
    "guided_choice": ["a"],
    "cache_prompt": True,
    "provider": {"order": ["x"]},
    "client_metadata": {"a": "b"},
    "prompt_cache_options": {},
    "moderation": {},
    "transforms": [],
    "mirostat": 2,
    "typical_p": 0.5,
}
IN_MESSAGES: dict[str, Any] = {
    "provider_specific_fields": {"refusal": None},
    "reasoning_details": [{"type": "reasoning.text", "text": "x"}],
    "thinking_blocks": [],
    "extra_content": {"google": {}},
    "cache_control": {"type": "ephemeral"},
    "id": "msg_1",
    "timestamp": 1,
}


async def test_fields_of_other_servers_are_ignored_by_name(client: Client, pool: FakePool) -> None:
    answer = {"role": "assistant", "content": "x", **IN_MESSAGES}
    messages = [{**USER, "name": "me", **IN_MESSAGES}, answer, USER]
    response, body = await post(client, CHAT, {"messages": messages, **OF_OTHER_SERVERS})
    assert response.status_code == 200, body
    named = set(response.headers[HEADER].split(", "))
    assert named == {*OF_OTHER_SERVERS, *(f"messages.{name}" for name in IN_MESSAGES)}
    assert pool.requests[0].grammar is None


async def test_ignored_fields_of_the_same_prompt_change_nothing(
    client: Client, pool: FakePool
) -> None:
    plain = {"messages": [USER, {"role": "assistant", "content": "x"}, USER]}
    extra = {"messages": [{**message, "id": "m"} for message in plain["messages"]], "provider": {}}
    await post(client, CHAT, plain)
    await post(client, CHAT, extra)
    assert pool.requests[0].prompt_token_ids == pool.requests[1].prompt_token_ids


async def test_streams_and_errors_name_them_too(client: Client) -> None:
    response, _ = await post(client, CHAT, {**PLAIN[CHAT], "stream": True, "provider": 1})
    assert response.headers[HEADER] == "provider"
    response, _ = await post(client, CHAT, {**PLAIN[CHAT], "temprature": 1, "temperature": -1})
    assert response.status_code == 400
    assert response.headers[HEADER] == "temprature"
    response, _ = await post(client, CHAT, {**PLAIN[CHAT], "temprature": 1, "model": "nope"})
    assert response.status_code == 404
    assert response.headers[HEADER] == "temprature"


async def test_fields_of_a_large_body_are_named(client: Client) -> None:
    messages = [{**USER, "id": f"m{number}"} for number in range(2000)]
    response, body = await post(client, "/tokenize", {"messages": messages, "provider": 1})
    assert response.status_code in (200, 400), body
    assert response.headers[HEADER] == "provider, messages.id"


async def test_thousands_of_unknown_fields_make_a_short_header(client: Client) -> None:
    fields = {f"field {number} é\r\n" + "x" * 100: number for number in range(20_000)}
    response, body = await post(client, CHAT, {**PLAIN[CHAT], **fields})
    assert response.status_code == 200, body
    assert len(response.headers[HEADER]) < 1100
    assert response.headers[HEADER].endswith("...")
    assert response.headers[HEADER].isascii()


@pytest.mark.parametrize(
    ("names", "value"),
    [
        ([], ""),
        (["a", "b.c"], "a, b.c"),
        (["a,b", "c\r\nSet-Cookie: x", "é"], "a?b, c??Set-Cookie??x, ?"),
        (["x" * 81], "x" * 80 + "..."),
        (["x" * 80] * 50, ", ".join(["x" * 80] * 12) + ", ..."),
    ],
)
def test_header_values(names: list[str], value: str) -> None:
    assert header_value(names) == value


async def test_with_strict_fields_they_are_errors(make_app: MAKE_APP, pool: FakePool) -> None:
    client = make_app(strict_fields=True).test_client()
    for path, fields in PLAIN.items():
        response, body = await post(client, path, {**fields, "nonsense": 1})
        assert response.status_code == 400
        assert "nonsense" in body["error"]["message"]
    response, body = await post(client, CHAT, {"messages": [USER, {**USER, "y": 1}]})
    assert response.status_code == 400
    assert body["error"]["param"] == "body.messages.1.y"
    assert body["error"]["type"] == "Bad Request"
    response, body = await post(client, CHAT, {"mesages": [USER]})
    assert body["error"]["param"] == "body.mesages"
    assert pool.requests == []
    response, body = await post(client, CHAT, PLAIN[CHAT])
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/abort_requests", {"request_ids": "all", "modle": "x"}, "body.modle"),
        ("/scale_elastic_ep", {"new_data_parallel_size": 1, "drain_timout": 1}, None),
        ("/collective_rpc", {"method": "ping", "timout": 1}, "body.timout"),
    ],
)
async def test_bodies_that_act_on_the_pool_stay_strict(
    make_app: MAKE_APP, path: str, body: dict[str, Any], param: str | None
) -> None:
    response, answer = await post(make_app(enable_admin=True).test_client(), path, body)
    assert response.status_code == 400
    assert list(body)[1] in answer["error"]["message"]
    assert answer["error"]["param"] == param


def named_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_each_name_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    log = IgnoredFieldLog()
    with caplog.at_level(logging.WARNING):
        log.note(["a", "messages.b"])
        log.note(["a", "c\nd"])
        log.note(["a"])
    assert named_in(caplog) == [
        "ignored parts of requests that are unknown here: a, messages.b",
        "ignored parts of requests that are unknown here: c?d",
    ]


def test_random_names_do_not_flood_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = IgnoredFieldLog()
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            log.note([f"name{number}"])
        assert len(caplog.records) == 10
        now += 6.5
        log.note(["late"])  # what was not logged before may be logged later
        assert named_in(caplog)[-1].endswith(": late")
        for number in range(100_000):
            now += 10
            log.note([f"slow{number}"])
    assert len(caplog.records) < 600
