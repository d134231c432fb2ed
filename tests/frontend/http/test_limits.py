"""Each limit on what a request may hold: more is a 400 that names the field, on every route."""

import json
from typing import Any

import pytest

from headrace.frontend.schemas.limits import current_limits
from headrace.protocol.config import ServingOptions
from headrace.protocol.limit_options import LimitOptions
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
USER = {"role": "user", "content": "Hello"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "x"}] * 3}
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [USER]},
    "/v1/chat/completions/batch": {"messages": [[USER]]},
    TEXT: {"prompt": "Hello"},
    MESSAGES: {"model": "smol", "max_tokens": 5, "messages": [USER]},
    "/v1/messages/count_tokens": {"model": "smol", "messages": [USER]},
    RESPONSES: {"input": "Hello", "store": False},
    "/tokenize": {"messages": [USER]},
    "/detokenize": {"tokens": [5]},
    "/invocations": {"messages": [USER]},
    "/v1/conversations": {},
    "/v1/embeddings": {},
    "/classify": {},
}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def tool(name: str = "f", **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(name: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}}


CALLS = [{"role": "assistant", "content": None, "tool_calls": [call("f")]}] * 3
FUNCTION = {"type": "function", "name": "f", "parameters": {}}
BIG_FUNCTION = {**FUNCTION, "description": "x" * 500}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
ONE = [{"role": "user", "content": "x"}]

# limit, its value, route, fields that exceed it, the field at fault
CASES: list[tuple[str, int, str, dict[str, Any], str]] = [
    ("max_json_depth", 8, CHAT, {"metadata": nested(9)}, "body.metadata"),
    ("max_json_depth", 8, "/tokenize", {"unknown": nested(9)}, "body.unknown"),
    ("max_json_depth", 8, MESSAGES, {"metadata": nested(9)}, "body.metadata"),
    ("max_json_values", 20, CHAT, {"metadata": list(range(30))}, "metadata"),
    ("max_token_ids", 4, "/detokenize", {"tokens": [5] * 5}, "tokens"),
    ("max_token_ids", 4, CHAT, {"allowed_token_ids": [5] * 5}, "allowed_token_ids"),
    ("max_n", 2, CHAT, {"n": 3, "temperature": 1}, "n"),
    ("max_n", 2, TEXT, {"n": 10**18, "temperature": 1}, "n"),
    ("max_n", 2, TEXT, {"best_of": 3, "temperature": 1}, "best_of"),
    ("max_n", 2, "/invocations", {"n": 3, "temperature": 1}, "n"),
    ("max_choices", 3, TEXT, {"prompt": ["a", "b"], "n": 2, "temperature": 1}, "n"),
    ("max_choices", 3, CHAT, {"n": 4, "temperature": 1}, "n"),
    ("max_choices", 2, "/v1/chat/completions/batch", {"messages": [ONE] * 3}, "messages"),
    ("max_beams", 2, TEXT, {"n": 3, "use_beam_search": True}, "n"),
    ("max_prompts", 2, TEXT, {"prompt": ["a"] * 3}, "prompt"),
    ("max_prompts", 2, TEXT, {"prompt": [[5]] * 3}, "prompt"),
    ("max_prompts", 2, "/v1/chat/completions/batch", {"messages": [ONE] * 3}, "messages"),
    ("max_inputs", 2, "/v1/embeddings", {"input": ["a"] * 3}, "input"),
    ("max_inputs", 2, "/v1/embeddings", {"input": [[5]] * 3}, "input"),
    ("max_inputs", 2, "/v1/embeddings", {"messages": [ONE] * 3}, "messages"),
    ("max_inputs", 2, "/classify", {"input": ["a"] * 3}, "input"),
    ("max_messages", 2, CHAT, {"messages": ONE * 3}, "messages"),
    ("max_messages", 2, "/v1/chat/completions/batch", {"messages": [ONE * 3]}, "messages.0"),
    ("max_messages", 2, MESSAGES, {"messages": ONE * 3}, "messages"),
    ("max_messages", 2, "/v1/messages/count_tokens", {"messages": ONE * 3}, "messages"),
    ("max_messages", 2, RESPONSES, {"input": ONE * 3}, "input"),
    ("max_messages", 2, "/tokenize", {"messages": ONE * 3}, "messages"),
    ("max_messages", 2, "/v1/conversations", {"items": ONE * 3}, "items"),
    ("max_content_parts", 2, CHAT, {"messages": [PARTS]}, "messages.0.content"),
    ("max_content_parts", 2, "/tokenize", {"messages": [PARTS]}, "messages.0.content"),
    ("max_content_parts", 2, MESSAGES, {"messages": [PARTS]}, "messages.0.content"),
    ("max_content_parts", 2, RESPONSES, {"input": [PARTS]}, "input.0.content"),
    ("max_documents", 1, CHAT, {"documents": [{"a": "b"}] * 2}, "documents"),
    ("max_stop", 2, CHAT, {"stop": ["a"] * 3}, "stop"),
    ("max_stop", 2, TEXT, {"stop": ["a"] * 3}, "stop"),
    ("max_stop", 2, RESPONSES, {"stop": ["a"] * 3}, "stop"),
    ("max_stop_sequences", 2, MESSAGES, {"stop_sequences": ["a"] * 3}, "stop_sequences"),
    ("max_stop_chars", 2, CHAT, {"stop": "abc"}, "stop.0"),
    ("max_stop_chars", 2, MESSAGES, {"stop_sequences": ["abc"]}, "stop_sequences.0"),
    ("max_stop_token_ids", 2, CHAT, {"stop_token_ids": [1] * 3}, "stop_token_ids"),
    ("max_bad_words", 2, CHAT, {"bad_words": ["a"] * 3}, "bad_words"),
    ("max_logit_bias", 2, TEXT, {"logit_bias": {"1": 1, "2": 1, "3": 1}}, "logit_bias"),
    ("max_logprob_token_ids", 2, TEXT, {"logprob_token_ids": [1] * 3}, "logprob_token_ids"),
    ("max_tools", 1, CHAT, {"tools": [tool("a"), tool("b")]}, "tools"),
    ("max_tools", 1, "/tokenize", {"tools": [tool("a"), tool("b")]}, "tools"),
    ("max_tools", 1, MESSAGES, {"tools": [TOOL, {**TOOL, "name": "g"}]}, "tools"),
    ("max_tools", 1, RESPONSES, {"tools": [FUNCTION] * 2}, "tools"),
    ("max_tool_chars", 200, CHAT, {"tools": [tool(description="x" * 300)]}, "tools.0"),
    ("max_tool_chars", 200, "/tokenize", {"tools": [tool(description="x" * 300)]}, "tools.0"),
    ("max_tool_chars", 200, MESSAGES, {"tools": [{**TOOL, "description": "x" * 300}]}, "tools.0"),
    ("max_tool_chars", 200, RESPONSES, {"tools": [BIG_FUNCTION]}, "tools.0"),
    ("max_tool_calls", 2, CHAT, {"messages": CALLS}, "messages"),
    ("max_schema_chars", 50, CHAT, {"response_format": FORMAT}, "response_format"),
    ("max_schema_depth", 2, CHAT, {"response_format": FORMAT}, "response_format"),
    ("max_schema_nodes", 3, CHAT, {"response_format": FORMAT}, "response_format"),
    (
        "max_schema_nodes",
        3,
        RESPONSES,
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
        "text.format",
    ),
    (
        "max_schema_nodes",
        3,
        MESSAGES,
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "output_config.format",
    ),
    (
        "max_schema_nodes",
        3,
        TEXT,
        {"structured_outputs": {"json": SCHEMA}},
        "structured_outputs.json",
    ),
    (
        "max_schema_chars",
        50,
        TEXT,
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        "structured_outputs.json",
    ),
    (
        "max_grammar_chars",
        5,
        TEXT,
        {"structured_outputs": {"grammar": 'start: "a"'}},
        "structured_outputs.grammar",
    ),
    (
        "max_regex_chars",
        5,
        CHAT,
        {"structured_outputs": {"regex": "abcdef"}},
        "structured_outputs.regex",
    ),
    (
        "max_structured_choices",
        1,
        CHAT,
        {"structured_outputs": {"choice": ["a", "b"]}},
        "structured_outputs.choice",
    ),
    ("max_chat_template_chars", 5, CHAT, {"chat_template": "harmless"}, "chat_template"),
    ("max_chat_template_chars", 5, "/tokenize", {"chat_template": "harmless"}, "chat_template"),
]
for _route in (CHAT, MESSAGES, "/v1/messages/count_tokens", RESPONSES, "/tokenize"):
    _field = "chat_template_kwargs"
    CASES += [
        ("max_template_arguments", 1, _route, {_field: {"a": 1, "b": 2}}, _field),
        ("max_template_argument_chars", 20, _route, {_field: {"a": "x" * 30}}, _field),
        ("max_template_argument_depth", 2, _route, {_field: {"a": [[1]]}}, _field),
    ]  # fmt: skip


@pytest.mark.parametrize(("limit", "value", "route", "fields", "param"), CASES)
async def test_more_than_a_limit_names_the_field(
    make_app: MAKE_APP,
    pool: FakePool,
    limit: str,
    value: int,
    route: str,
    fields: dict[str, Any],
    param: str,
) -> None:
    serving = ServingOptions(trust_request_chat_template=True)
    client = make_app(serving=serving, **{limit: value}).test_client()
    response = await client.post(route, json={**ASKED[route], **fields})
    body = await response.get_json()
    assert response.status_code == 400, body
    error = body["error"]
    assert str(value) in error["message"]
    if not route.startswith(MESSAGES):  # whose errors have no param
        assert error["param"] == param
        kind = "Bad Request" if param.startswith("body") else "BadRequestError"
        assert error["type"] == kind
    assert error["message"].startswith(f"{param}:") or limit == "max_json_values"
    assert not pool.requests


@pytest.mark.parametrize(
    ("limit", "value", "route", "fields", "param"),
    [case for case in CASES if case[3].get("n") != 10**18 and "best_of" not in case[3]],
)
async def test_a_higher_limit_lets_it_pass(
    make_app: MAKE_APP,
    limit: str,
    value: int,
    route: str,
    fields: dict[str, Any],
    param: str,
) -> None:
    """Nothing else refuses it: the request is within all other limits."""
    serving = ServingOptions(trust_request_chat_template=True)
    client = make_app(serving=serving).test_client()
    response = await client.post(route, json={**ASKED[route], **fields})
    body = await response.get_data(as_text=True)
    refused = param.removeprefix("body.").partition(".")[0] in body and "must " in body
    assert response.status_code == 200 or not refused, body


def test_each_limit_has_a_case() -> None:
    times = {"grammar_timeout_s", "chat_template_timeout_s"}
    of_models_that_pool = {"max_numbers"}  # tests/frontend/pooling/test_any_task.py
    others = times | of_models_that_pool
    assert {case[0] for case in CASES} == set(LimitOptions.model_fields) - others


async def test_limits_belong_to_an_application(make_app: MAKE_APP) -> None:
    strict, lenient = (make_app(max_n=most).test_client() for most in (1, 500))
    asked = {"messages": [USER], "n": 200, "temperature": 1}
    assert (await strict.post(CHAT, json=asked)).status_code == 400
    assert (await lenient.post(CHAT, json=asked)).status_code == 200
    assert current_limits() == LimitOptions()


async def test_limits_are_described(make_app: MAKE_APP) -> None:
    client = make_app(max_n=7).test_client()
    described = await (await client.get("/openapi.json")).get_json()
    fields = described["components"]["schemas"]["CompletionRequest"]["properties"]
    assert fields["n"]["anyOf"][0]["maximum"] == 7
