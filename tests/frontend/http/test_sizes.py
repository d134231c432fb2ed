"""Bodies that are small in bytes and huge in values are rejected before each value is looked at."""

import gc
import json
import threading
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import ErrorDetails
from quart import Response
from quart.typing import TestClientProtocol as Client

from headrace.frontend.errors import ApiError, BadRequest
from headrace.frontend.http import parsing, sizes
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.process import worker_thread as run_in_worker_thread
from headrace.frontend.routes import tokenize
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.asgi import Exchange
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
JSON = {"content-type": "application/json"}


async def rejection(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, data=json.dumps(body).encode(), headers=JSON)
    assert response.status_code == 400, await response.get_data(as_text=True)
    found: dict[str, Any] = (await response.get_json())["error"]
    return found


def unknown(count: int) -> dict[str, int]:
    return {f"unknown{number}": 1 for number in range(count)}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": [1] * 200_000}, "stop"),
        ({"stop_token_ids": ["x"] * 200_000}, "body"),
        ({"chat_template_kwargs": {"a": [[]] * 200_000}}, "body"),
        ({"chat_template_kwargs": unknown(200_000)}, "body"),
        ({"metadata": {"a": [[[1] * 10] * 100] * 200}}, "metadata"),
        ({"messages": [1] * 200_000}, "messages"),
        ({"messages": [{"role": "user", "content": ["a"] * 200_000}]}, "body"),
        ({"messages": [{**MESSAGES[0], "tool_calls": [1] * 200_000}]}, "messages"),
        ({"messages": [{**MESSAGES[0], **unknown(200_000)}]}, "body"),
        (unknown(200_000), "body"),
        ({"\ud800": [1] * 200_000}, "?"),
    ],
)
async def test_too_many_values_never_reach_validation(
    client: Client, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], param: str
) -> None:
    """Elements of a wrong type would be reported first, if they had been looked at."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the body was validated")

    monkeypatch.setattr(ChatCompletionRequest, "model_validate", never)
    error = await rejection(client, CHAT, {"messages": MESSAGES, **fields})
    assert error["param"] == param
    assert error["type"] == "BadRequestError"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": [1] * 5}, "stop"),
        ({"stop_token_ids": ["x"] * 1025}, "stop_token_ids"),
        ({"messages": [1] * 10_001}, "messages"),
        ({"messages": [{**MESSAGES[0], "tool_calls": [1] * 129}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": 1, "tool_calls": [1] * 128}] * 33}, "messages"),
    ],
)
async def test_lengths_come_before_elements(
    client: Client, fields: dict[str, Any], param: str
) -> None:
    assert (await rejection(client, CHAT, {"messages": MESSAGES, **fields}))["param"] == param


async def test_of_many_unknown_fields_one_is_named(make_app: MAKE_APP) -> None:
    client = make_app(strict_fields=True).test_client()
    error = await rejection(client, CHAT, {"messages": [{**MESSAGES[0], **unknown(1000)}]})
    assert error["param"] == "body.messages.0.unknown0"
    error = await rejection(client, CHAT, {**unknown(1000), "messages": MESSAGES})
    assert error["param"] == "body.unknown0"


async def test_the_first_bad_message_ends_the_validation(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[list[ErrorDetails]] = []
    first_error = parsing._first_error

    def noted(found: list[ErrorDetails], *others: Any) -> Any:
        errors.append(found)
        return first_error(found, *others)

    monkeypatch.setattr(parsing, "_first_error", noted)
    await rejection(client, CHAT, {"messages": [{"role": 1}] * 5000})
    assert len(errors[0]) == 1


async def test_token_ids_are_as_many_as_the_body_holds(client: Client) -> None:
    """A list of ids does not count as a list of values: it is rejected for its own length."""
    error = await rejection(client, COMPLETIONS, {"prompt": [5] * 200_000})
    assert error["param"] == "input_tokens"
    response = await client.post("/detokenize", json={"tokens": [5] * 200_000})
    assert response.status_code == 200
    error = await rejection(client, COMPLETIONS, {"prompt": [[]] * 90_000})
    assert "900" not in error["message"]
    assert error["param"] == "prompt"


async def test_too_many_fractions(make_app: MAKE_APP) -> None:
    client = make_app(max_json_values=3).test_client()
    assert (await rejection(client, COMPLETIONS, {"prompt": [1.5] * 4}))["param"] == "body"


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": unknown(100_001)},
        {"a": [[]] * 100_002},
        {"a": [{}] * 100_002},
        {"a": ['\\"'] * 100_002},
        {"a": ["\\" * 7, "x"] * 60_000},
        {"prompt": [5] * 1_200_000},
    ],
    ids=lambda body: next(iter(body)),
)
def test_too_many_values_are_not_even_read(
    monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    """Reading them is one call, in which nothing else of the process runs."""
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(BadRequest) as refusal:
        parsing.parse_object(json.dumps(body).encode())
    assert refusal.value.param == "body"


@pytest.mark.parametrize("shift", range(4))
def test_marks_in_strings_are_no_values(shift: int) -> None:
    """However the pieces that are looked at cut the text."""
    hard = ['[{",' * 100_000, "\\" * 200_001, '\\"[' * 100_000, '"' * 300_001, "x" * 65_536]
    body = {"s" * (shift + 1): hard, "prompt": [5] * 900_000}
    data = json.dumps(body).encode()
    sizes.check_encoded_size(data)
    assert parsing.parse_object(data) == body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": MESSAGES * 2000}),
        ("/invocations", {"messages": MESSAGES * 2000}),
        ("/tokenize", {"messages": MESSAGES * 2000}),
        ("/v1/messages", {"model": "smol", "max_tokens": 1, "messages": MESSAGES * 2000}),
        ("/v1/responses", {"input": MESSAGES * 2000}),
    ],
)
async def test_large_bodies_are_read_and_translated_in_a_thread(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
) -> None:
    threads: list[threading.Thread] = []
    validated = BaseModel.__dict__["model_validate"].__func__

    def noted(cls: type[BaseModel], *given: Any) -> Any:
        threads.append(threading.current_thread())
        return validated(cls, *given)

    monkeypatch.setattr(BaseModel, "model_validate", classmethod(noted))
    await client.post(path, json=body)
    assert threads
    assert threading.main_thread() not in threads


async def test_small_bodies_are_read_at_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_in_worker_thread, "_THREAD", None)
    response = await client.post(CHAT, json={"messages": MESSAGES})
    assert response.status_code == 200


def test_ten_thousand_messages_fit() -> None:
    sizes.check_value_count({"messages": [{"role": "user", "content": "x", "name": "y"}] * 10_000})


@pytest.mark.parametrize("body", [b"{}", b"[", b'{"a": 1e999}'])
def test_the_collector_runs_again_afterwards(body: bytes) -> None:
    try:
        parsing.parse_object(body)
    except ApiError:
        assert body != b"{}"
    assert gc.isenabled()


@pytest.mark.parametrize("prompt", ["The capital " * 1000, ["The capital of France"] * 300])
async def test_long_prompts_and_many_are_tokenized_in_a_thread(
    client: Client,
    text: ModelTokenizer,
    pool: FakePool,
    monkeypatch: pytest.MonkeyPatch,
    prompt: list[str] | str,
) -> None:
    threads = set()
    encode = type(text)._encode_long

    def noted(self: ModelTokenizer, *arguments: Any) -> list[int]:
        threads.add(threading.current_thread())
        return encode(self, *arguments)

    monkeypatch.setattr(type(text), "_encode_long", noted)
    fields = {"prompt": prompt, "truncate_prompt_tokens": 5, "max_tokens": 1}
    response = await client.post(COMPLETIONS, json=fields)
    assert response.status_code == 200
    assert 1 <= len(threads) <= 2
    assert threads.isdisjoint({threading.main_thread()})
    assert len(pool.requests) == (1 if isinstance(prompt, str) else 300)


async def test_texts_that_fit_no_context_are_not_tokenized(
    client: Client, text: ModelTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(text), "_encode_long", None)
    long = "x" * (text.encodable_chars + 1)
    message = {"messages": [{"role": "user", "content": long}]}
    for path, fields, param in (
        ("/tokenize", {"prompt": long}, "prompt"),
        ("/tokenize", message, "messages"),
        (COMPLETIONS, {"prompt": long}, "input_tokens"),
        (COMPLETIONS, {"prompt": long, "truncate_prompt_tokens": 5}, "prompt"),
        (CHAT, {**message, "truncate_prompt_tokens": 5}, "input_tokens"),
    ):
        assert (await rejection(client, path, fields))["param"] == param


async def test_long_lists_of_tokens_are_encoded_in_a_thread(
    make_app: MAKE_APP, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    def noted(body: dict[str, Any]) -> Response:
        threads.add(threading.current_thread())
        return json_response(body)

    monkeypatch.setattr(tokenize, "json_response", noted)
    app = make_app()
    body = json.dumps({"prompt": "x y " * 5000, "return_token_strs": True}).encode()
    exchange = Exchange(app, "/tokenize", body, JSON)
    await exchange.finish()
    assert exchange.status == 200
    assert json.loads(b"".join(exchange.chunks))["count"] >= 10_000
    assert threads
    assert threading.main_thread() not in threads
