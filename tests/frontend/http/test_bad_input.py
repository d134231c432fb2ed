"""Whatever a client sends: an error in the contract's shape that names the field, never a 500."""

import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quart import Response
from quart.typing import TestClientProtocol as Client

from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.to_worker import Generate
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
JSON = {"content-type": "application/json"}


async def send(
    client: Client, path: str, body: dict[str, Any] | bytes
) -> tuple[Response, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await client.post(path, data=data, headers=JSON)
    return response, json.loads(await response.get_data())


def param_of(body: dict[str, Any]) -> Any:
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]["param"]


OUT_OF_RANGE: dict[str, list[Any]] = {
    "temperature": [-0.1, 10_000.1, 1e39],
    "top_p": [0, -1, 1.01],
    "top_k": [-2, 2**31, 10**40],
    "min_p": [-0.1, 1.1],
    "repetition_penalty": [0, -1, 1e-320, 0.0009, 1001],
    "presence_penalty": [-2.1, 2.1],
    "frequency_penalty": [-2.1, 2.1],
    "n": [0, -1, 129, 10**30],
    "min_tokens": [-1],
    "max_tokens": [-1, 10**30],
    "seed": [2**63, -(2**63) - 1],
    "stop_token_ids": [[600_000]],
    "priority": [2**31],
    "cache_salt": ["", "x" * 1025],
    "request_id": ["", "x" * 129],
    "truncate_prompt_tokens": [-2, 0],
    "prompt_logprobs": [21, -1],
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in OUT_OF_RANGE for value in OUT_OF_RANGE[field]]
)
async def test_values_out_of_range(
    client: Client, pool: FakePool, path: str, field: str, value: float
) -> None:
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "Hello"}
    response, body = await send(client, path, {**prompt, field: value})
    assert response.status_code == 400
    assert param_of(body) == field
    assert body["error"]["type"] == "BadRequestError"
    assert pool.requests == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "0.5"),
        ("temperature", True),
        ("top_k", 1.5),
        ("n", True),
        ("n", "2"),
        ("max_tokens", [1]),
        ("stream", "yes"),
        ("stream", 1),
        ("stop", 5),
        ("stop", {"a": 1}),
        ("stop_token_ids", [True]),
        ("stop_token_ids", "5"),
        ("model", 5),
        ("seed", "x"),
        ("user", {}),
        ("stream_options", []),
        ("messages", "Hello"),
        ("messages", [1]),
        ("chat_template_kwargs", []),
    ],
)
async def test_wrong_types(client: Client, field: str, value: Any) -> None:
    response, body = await send(client, CHAT, {"messages": MESSAGES, field: value})
    assert response.status_code == 400
    assert param_of(body).startswith(f"body.{field}")
    assert body["error"]["type"] == "Bad Request"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modalities", ["text", "audio"]),
        ("watermarking", True),
        ("kv_transfer_params", {"a": 1}),
        ("ec_transfer_params", {"a": 1}),
        ("vllm_xargs", {"a": 1}),
        ("session_id", "a"),
    ],
)
async def test_features_that_are_not_here_are_named(client: Client, field: str, value: Any) -> None:
    response, body = await send(client, CHAT, {"messages": MESSAGES, field: value})
    assert response.status_code == 400
    assert param_of(body) == field
    assert "not supported" in body["error"]["message"]


async def test_suffix_is_refused(client: Client) -> None:
    _, body = await send(client, COMPLETIONS, {"prompt": "Hello", "suffix": "end"})
    assert param_of(body) == "suffix"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_defaults_and_fields_without_effect_pass(client: Client, path: str) -> None:
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "Hello"}
    model = ChatCompletionRequest if path == CHAT else CompletionRequest
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    ignored = {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "user": "me"}
    response, body = await send(client, path, {**defaults, **prompt, **ignored})
    assert response.status_code == 200, body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"5",
        b"null",
        b'{"messages": ',
        b"\xff\xfe{}",
        '{"model": "x"}'.encode("utf-16"),
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"messages": [{"role": "user", "content": "\x00"}]}',
    ],
)
async def test_bodies_that_are_no_request(client: Client, data: bytes) -> None:
    response, body = await send(client, CHAT, data)
    assert response.status_code == 400
    assert param_of(body).startswith("body")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize(
    "form", ['"temperature": %s', '"chat_template_kwargs": {"a": [%s]}', '"seed": %s']
)
async def test_non_finite_numbers_are_named(client: Client, number: str, form: str) -> None:
    data = '{"messages": [{"role": "user", "content": "x"}], ' + form % number + "}"
    response, body = await send(client, CHAT, data.encode())
    assert response.status_code == 400
    assert param_of(body) == form.split('"')[1]


async def test_numbers_of_thousands_of_digits_are_named(client: Client) -> None:
    response, body = await send(client, CHAT, b'{"messages": [], "n": ' + b"9" * 5000 + b"}")
    assert response.status_code == 400
    assert param_of(body) == "n"


@pytest.mark.parametrize("escape", ["\\ud800", "a\\udfffb", "\\u0000"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize"])
async def test_characters_that_are_no_text(client: Client, path: str, escape: str) -> None:
    form = '{"messages": [{"role": "user", "content": "%s"}]}'
    if path == COMPLETIONS:
        form = '{"prompt": "%s"}'
    response, body = await send(client, path, (form % escape).encode())
    assert response.status_code == 400
    assert param_of(body) == form.split('"')[1]
    response, body = await send(client, path, b'{"%s": 1}' % escape.encode())
    assert response.status_code == 400
    param_of(body)


async def test_byte_order_mark_is_no_part_of_the_body(client: Client) -> None:
    body = json.dumps({"messages": MESSAGES})
    response, answer = await send(client, CHAT, body.encode("utf-8-sig"))
    assert response.status_code == 200, answer
    response, answer = await send(client, CHAT, b"\xef\xbb\xbf" * 2 + body.encode())
    assert response.status_code == 400
    response, answer = await send(client, CHAT, body.encode("utf-16"))
    assert response.status_code == 400
    assert param_of(answer).startswith("body")


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/responses", {"input": 5}, "body.input"),
        ("/v1/responses", {"input": "x", "tool_choice": 5}, "body.tool_choice"),
        ("/v1/responses", {"input": "x", "reasoning": {"effort": 5}}, "body.reasoning.effort"),
        ("/v1/responses", {"input": "x", "metadata": {"str": 5}}, "body.metadata.str"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "body.messages.0.content"),
        (
            CHAT,
            {"messages": MESSAGES, "structured_outputs": {"json": 5}},
            "body.structured_outputs.json",
        ),
        (CHAT, {"messages": MESSAGES, "reasoning_effort": "x"}, "body.reasoning_effort"),
        ("/abort_requests", {"request_ids": 5}, "body.request_ids"),
    ],
)
async def test_fields_are_named_without_types_of_ours(
    make_app: MAKE_APP, path: str, fields: dict[str, Any], param: str
) -> None:
    client = make_app(enable_admin=True).test_client()
    response, body = await send(client, path, fields)
    assert response.status_code == 400
    assert param_of(body) == param
    assert body["error"]["type"] == "Bad Request"
    assert body["error"]["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("bias", "named"),
    [({"5": 1, "abc": 1}, "'abc'"), ({"-1": 1}, "'-1'"), ({"7": "x"}, "'7'"), ({"é" * 50: 1}, "é")],
)
async def test_bias_at_fault_is_named(client: Client, bias: dict[str, Any], named: str) -> None:
    response, body = await send(client, CHAT, {"messages": MESSAGES, "logit_bias": bias})
    assert response.status_code == 400
    assert param_of(body).removeprefix("body.") == "logit_bias"
    assert named in body["error"]["message"]
    assert len(body["error"]["message"]) < 150


async def test_surrogate_pairs_are_text(client: Client) -> None:
    response, _ = await send(client, COMPLETIONS, b'{"prompt": "\\ud83d\\ude00 \\\\ud800"}')
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ("", "prompt"),
        ([], "prompt"),
        ([[]], "prompt"),
        (["Hello", ""], "prompt"),
        ([-1], "prompt"),
        ([5, 10**9], "prompt"),
        ([10**30], "prompt"),
        ([[5], [100_000]], "prompt"),
        (["x"] * 1025, "prompt"),
        (5, "body.prompt"),
        ([5, "x"], "body.prompt"),
        ([True], "body.prompt"),
        ([[5], "x"], "body.prompt"),
        ([[1.5]], "body.prompt"),
        ([5] * 2048, "input_tokens"),
        ([-5] * 2048, "input_tokens"),
        ("Hello " * 3000, "input_tokens"),
        ("Hello " * 1_000_000, "input_tokens"),
    ],
)
async def test_prompts(client: Client, pool: FakePool, prompt: Any, param: str) -> None:
    response, body = await send(client, COMPLETIONS, {"prompt": prompt})
    assert response.status_code == 400
    assert param_of(body) == param
    assert pool.requests == []


async def test_ids_up_to_the_models_own_vocabulary(client: Client, text: ModelTokenizer) -> None:
    size = text.info.vocab_size
    response, _ = await send(client, COMPLETIONS, {"prompt": [size - 1]})
    assert response.status_code == 200
    response, _ = await send(client, COMPLETIONS, {"prompt": [size]})
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, None),
        ({"temperature": 0, "n": 2}, None),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2049}, "max_tokens"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"stop": "x" * 5000}, "stop.0"),
        ({"stop_token_ids": [1] * 2000}, "stop_token_ids"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"messages": [{"role": "user", "content": "Hello " * 3000}]}, "input_tokens"),
        ({"messages": MESSAGES * 10_001}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "body.messages.0.content",
        ),
        ({"messages": [{"content": "x"}]}, "body.messages.0.role"),
    ],
)
async def test_fields_that_do_not_fit(
    client: Client, pool: FakePool, fields: dict[str, Any], param: str | None
) -> None:
    response, body = await send(client, CHAT, {"messages": MESSAGES, **fields})
    assert response.status_code == 400
    assert param_of(body) == param
    assert pool.requests == []


async def test_too_many_texts(client: Client, pool: FakePool) -> None:
    fields = {"prompt": ["x"] * 500, "n": 100, "temperature": 1}
    response, body = await send(client, COMPLETIONS, fields)
    assert response.status_code == 400
    assert param_of(body) == "n"
    assert pool.requests == []


async def test_unknown_models(client: Client) -> None:
    for path, prompt in ((CHAT, {"messages": MESSAGES}), (COMPLETIONS, {"prompt": "x"})):
        response, body = await send(client, path, {**prompt, "model": "nope"})
        assert response.status_code == 404
        assert param_of(body) == "model"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_wrong_content_types(client: Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await client.post(CHAT, data=b'{"messages": []}', headers=headers)
    assert response.status_code == 400
    assert param_of(await response.get_json()) is None


async def test_content_types_with_parameters_pass(client: Client) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    data = json.dumps({"messages": MESSAGES}).encode()
    assert (await client.post(CHAT, data=data, headers=headers)).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
async def test_compressed_bodies(client: Client, encoding: str) -> None:
    headers = {**JSON, "content-encoding": encoding}
    response = await client.post(CHAT, data=b"\x1f\x8b\x08", headers=headers)
    assert response.status_code == 415
    body = await response.get_json()
    assert param_of(body) is None
    assert "Content-Encoding" in body["error"]["message"]


async def test_the_encoding_that_is_none_passes(client: Client) -> None:
    headers = {**JSON, "content-encoding": "Identity"}
    data = json.dumps({"messages": MESSAGES}).encode()
    assert (await client.post(CHAT, data=data, headers=headers)).status_code == 200


async def test_large_bodies(make_app: MAKE_APP, pool: FakePool) -> None:
    client = make_app(max_body_bytes=1000).test_client()
    for path in (CHAT, COMPLETIONS, "/tokenize", "/detokenize"):
        response, body = await send(client, path, {"prompt": "x" * 1000})
        assert response.status_code == 413
        param_of(body)
    assert pool.requests == []


async def test_unforeseen_errors_tell_nothing(
    client: Client,
    pool: FakePool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(group: str, request: Generate) -> None:
        raise RuntimeError("/secret/path 0x7fdeadbeef")

    monkeypatch.setattr(pool, "generate", broken)
    with caplog.at_level(logging.ERROR):
        response, body = await send(client, CHAT, {"messages": MESSAGES})
    assert response.status_code == 500
    assert body["error"]["type"] == "InternalServerError"
    assert "secret" not in json.dumps(body)
    assert "/secret/path" in caplog.text


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([2**31, -(2**63), 2**64, 1e308, "\ud800", "text", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = sorted({*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields})
ANY_CLIENT = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@ANY_CLIENT
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3), st.booleans())
async def test_no_field_breaks_the_server(
    client: Client, fields: dict[str, Any], chat: bool
) -> None:
    path = CHAT if chat else COMPLETIONS
    prompt = {"messages": MESSAGES} if chat else {"prompt": "Hello"}
    data = json.dumps({**prompt, **fields}).encode()
    response = await client.post(path, data=data, headers=JSON)
    text = await response.get_data(as_text=True)
    assert response.status_code in (200, 400, 404), text
    if response.status_code != 200:
        param_of(json.loads(text))


@ANY_CLIENT
@given(st.sampled_from([CHAT, COMPLETIONS, "/tokenize", "/detokenize"]), VALUES)
async def test_no_body_breaks_the_server(
    client: Client,
    path: str,
    value: Any,
) -> None:
    response = await client.post(path, data=json.dumps(value).encode(), headers=JSON)
    assert response.status_code == 400


@ANY_CLIENT
@given(st.sampled_from(["messages", "prompt", "tokens"]), VALUES)
async def test_nothing_to_tokenize_breaks_the_server(
    client: Client, field: str, value: Any
) -> None:
    for path in ("/tokenize", "/detokenize"):
        data = json.dumps({field: value}).encode()
        response = await client.post(path, data=data, headers=JSON)
        assert response.status_code in (200, 400)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([5], "body.input.0: Input should be a valid dictionary."),
        (["Hello"], "body.input.0: Input should be a valid dictionary."),
        ([{"role": "user", "content": "x"}] * 10_001, "input: must hold at most 10000 elements."),
        (5, "body.input: Input should be a valid string."),
    ],
)
async def test_errors_are_of_the_type_that_was_sent(
    client: Client, value: Any, complaint: str
) -> None:
    _, body = await send(client, "/v1/responses", {"input": value})
    assert body["error"]["message"] == complaint
