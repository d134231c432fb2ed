"""POST /v1/messages and count_tokens, driven by Anthropic's own client."""

import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

import httpx2
import pytest
from anthropic import APIStatusError, AsyncAnthropic, beta_async_tool
from anthropic.types import Message
from quart.typing import TestClientProtocol as Client

from headrace.frontend.chat.chat_run import ChatRun
from headrace.frontend.chat.start_chat import start_chat
from headrace.frontend.context import Context
from headrace.frontend.pool.interface import PoolBusy, PoolUnavailable, RequestLost
from headrace.frontend.routes import messages
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.chat.tagged_reader import TaggedReader
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import EOS

PATH = "/v1/messages"
ANSWER = "The capital of France is Paris."
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
REQUEST: dict[str, Any] = {"model": "smol", "max_tokens": 500, "messages": QUESTION}


@pytest.fixture
async def anthropic(make_app: MAKE_APP) -> AsyncIterator[AsyncAnthropic]:
    transport = httpx2.ASGITransport(make_app())  # type: ignore[arg-type]
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        AsyncAnthropic(
            base_url="http://test", api_key="none", http_client=http, max_retries=0
        ) as client,
    ):
        yield client


class Say(Protocol):
    def __call__(self, words: str, reasons: dict[str, str] | None = None) -> None: ...


@pytest.fixture
def say(pool: FakePool, text: ModelTokenizer, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Lets the model say a text with tags, see TaggedReader."""

    def say(words: str, reasons: dict[str, str] | None = None) -> None:
        ids = text.backend.encode(words, add_special_tokens=False).ids
        pool.reply = lambda request: [*ids, EOS]

        async def start(context: Context, request: ChatCompletionRequest) -> ChatRun:
            run = await start_chat(context, request)
            run._readers = [TaggedReader(reasons or {})]
            return run

        monkeypatch.setattr(messages, "start_chat", start)

    return say


def shown(message: Message) -> dict[str, Any]:
    return message.model_dump(exclude={"id"}, exclude_unset=True)


async def both(client: AsyncAnthropic, **fields: Any) -> dict[str, Any]:
    """The message, which must be the same streamed and whole."""
    request = {**REQUEST, **fields}
    whole = await client.messages.create(**request)
    async with client.messages.stream(**request) as stream:
        async for _ in stream:
            pass
        streamed = await stream.get_final_message()
    assert shown(streamed) == shown(whole)
    assert whole.id.startswith("msg_")
    assert streamed.id != whole.id
    return shown(whole)


async def events(client: Client, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, as they are on the wire."""
    response = await client.post(PATH, json={**REQUEST, "stream": True, **fields})
    assert response.status_code == 200, await response.get_data(as_text=True)
    assert response.content_type == "text/event-stream; charset=utf-8"
    read = []
    for event in (await response.get_data(as_text=True)).removesuffix("\n\n").split("\n\n"):
        kind, data = event.split("\n")
        read.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {read[-1]['type']}"
    return read


async def rejection(client: AsyncAnthropic, **fields: Any) -> tuple[int, str, str]:
    """Status, type and message of the error that the client raises."""
    with pytest.raises(APIStatusError) as caught:
        await client.messages.create(**{**REQUEST, **fields})
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["request_id"] == caught.value.response.headers["request-id"]
    return caught.value.status_code, body["error"]["type"], body["error"]["message"]


async def test_answers_the_same_streamed_and_whole(
    anthropic: AsyncAnthropic, pool: FakePool
) -> None:
    message = await both(anthropic)
    prompt = len(pool.requests[0].prompt_token_ids)
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "smol",
        "content": [{"type": "text", "text": ANSWER}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": prompt,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 8,
        },
    }


async def test_events_and_their_order(client: Client) -> None:
    read = await events(client)
    kinds = [event["type"] for event in read]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert read[0]["message"]["content"] == []
    assert read[0]["message"]["stop_reason"] is None
    assert "".join(event["delta"]["text"] for event in read[2:-3]) == ANSWER
    assert read[-2]["usage"]["output_tokens"] == 8


@pytest.mark.parametrize("per_output", [1, 3, 1000])
async def test_thinking_text_and_calls_are_blocks_in_order(
    anthropic: AsyncAnthropic, pool: FakePool, say: Say, per_output: int
) -> None:
    pool.per_output = per_output
    say('~rWhich is it? ~cParis ~t{"city": "Paris"}~c\n~t{"n": [1, 2]}')
    message = await both(anthropic)
    thinking, text, first, second = message["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Which is it? ")
    assert thinking["signature"]
    assert text == {"type": "text", "text": "Paris"}
    call = {"type": "tool_use", "id": "call_0", "name": "f", "input": {"city": "Paris"}}
    assert first == call
    assert second == {**call, "id": "call_1", "input": {"n": [1, 2]}}
    assert message["stop_reason"] == "tool_use"


async def test_a_call_that_is_cut_short_is_as_far_as_it_goes(
    anthropic: AsyncAnthropic, text: ModelTokenizer, say: Say
) -> None:
    words = '~t{"city": "Paris", "country": "France"}'
    count = len(text.backend.encode(words[:27], add_special_tokens=False).ids)
    say(words)
    message = await both(anthropic, max_tokens=count)
    assert message["stop_reason"] == "max_tokens"
    assert message["content"][0]["input"] == {"city": "Paris"}


async def test_answer_of_white_space_is_text(anthropic: AsyncAnthropic, say: Say) -> None:
    say("~c \n ")
    message = await both(anthropic)
    assert message["content"] == [{"type": "text", "text": " \n "}]
    assert message["stop_reason"] == "end_turn"


@beta_async_tool(name="f")
async def _ask_city(city: str) -> str:
    """Tell about a city."""
    return f"{city} is big."


@pytest.mark.parametrize("stream", [False, True])
async def test_clients_tool_runner_sends_the_whole_conversation(
    anthropic: AsyncAnthropic, pool: FakePool, text: ModelTokenizer, say: Say, stream: bool
) -> None:
    """It would send parts of it, if the server kept the rest."""
    say('~cI look. ~t{"city": "Paris"}')
    runner: Any = anthropic.beta.messages.tool_runner(
        **REQUEST, tools=[_ask_city], tool_choice={"type": "any"}, stream=stream, max_iterations=2
    )
    kinds = []
    async for answer in runner:
        message = await answer.get_final_message() if stream else answer
        kinds.append([block.type for block in message.content])
    assert kinds == [["text", "tool_use"]] * 2
    last = text.backend.decode(list(pool.requests[-1].prompt_token_ids), skip_special_tokens=False)
    assert "capital of France?" in last
    assert "I look." in last
    assert "Paris is big." in last


async def test_stop_reasons(anthropic: AsyncAnthropic) -> None:
    assert (await both(anthropic, max_tokens=2))["stop_reason"] == "max_tokens"
    stopped = await both(anthropic, stop_sequences=["x", " Paris"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " Paris")
    assert stopped["content"][0]["text"] == "The capital of France is"
    many = [*(f"word {number}" for number in range(63)), " Paris"]
    stopped = await both(anthropic, stop_sequences=many)
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " Paris")


async def test_fields_reach_the_worker(anthropic: AsyncAnthropic, pool: FakePool) -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "cache_salt": "salt"}
    await anthropic.messages.create(
        **REQUEST, metadata={"user_id": "me"}, extra_body=sampling, stop_sequences=["z"]
    )
    request = pool.requests[0]
    assert (request.tenant, request.cache_salt) == ("me", "salt")
    sampled = request.sampling
    assert (sampled.temperature, sampled.top_p, sampled.top_k) == (0.5, 0.9, 7)
    assert sampled.max_tokens == 500


async def test_an_answer_that_the_client_has_begun_is_gone_on_with(
    anthropic: AsyncAnthropic, pool: FakePool, text: ModelTokenizer
) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "The capital"}]
    await anthropic.messages.create(**{**REQUEST, "messages": begun})
    prompt = text.backend.decode(list(pool.requests[0].prompt_token_ids), skip_special_tokens=False)
    assert prompt.endswith("<|im_start|>assistant\nThe capital")


async def test_counts_the_tokens_of_the_prompt(anthropic: AsyncAnthropic, pool: FakePool) -> None:
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    counted = await anthropic.messages.count_tokens(model="smol", messages=QUESTION, system=system)
    await anthropic.messages.create(**REQUEST, system=system)
    assert counted.input_tokens == len(pool.requests[0].prompt_token_ids)
    assert len(pool.requests) == 1
    edited = await anthropic.beta.messages.count_tokens(
        model="smol", messages=QUESTION, system=system
    )
    assert edited.context_management is not None
    assert edited.context_management.original_input_tokens == counted.input_tokens


async def test_tokens_read_from_the_cache_are_no_input(
    pool: FakePool, anthropic: AsyncAnthropic
) -> None:
    pool.cached_tokens, pool.written_tokens = 16, 3
    usage = (await both(anthropic))["usage"]
    assert usage["cache_read_input_tokens"] == 16
    assert usage["cache_creation_input_tokens"] == 3
    assert usage["input_tokens"] == len(pool.requests[0].prompt_token_ids) - 19


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2049}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        ({"system": [{"type": "image", "source": {}}]}, "system.0"),
        ({"temperature": 1e9}, "temperature"),
        ({"stop_sequences": ["a"] * 65}, "stop_sequences"),
        ({"stop_sequences": ["a" * 4096] * 5}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools.0.input_schema"),
        ({"tools": ["x"]}, "tools.0"),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"}},
            "tool_choice",
        ),
        (
            {
                "tools": [{"type": "bash_20250124", "name": "bash"}],
                "tool_choice": {"type": "tool", "name": "bash"},
            },
            "tool_choice",
        ),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
    ],
)
async def test_bad_requests_name_the_field(
    anthropic: AsyncAnthropic, fields: dict[str, Any], named: str
) -> None:
    status, kind, message = await rejection(anthropic, extra_body=fields)
    assert (status, kind) == (400, "invalid_request_error")
    assert message.removeprefix("body.").startswith(named), message


@pytest.mark.parametrize("kind", ["image", "document", "search_result", "tool_reference"])
async def test_blocks_that_are_no_text_are_refused_by_name(
    anthropic: AsyncAnthropic, kind: str
) -> None:
    block = {"type": kind, "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
    for content, where in (([block], ""), ([result], ".tool_result.content.0")):
        said = [{"role": "user", "content": content}]
        status, _, message = await rejection(anthropic, messages=said)
        assert status == 400
        assert message.startswith(f"messages.0.content.0{where}: ")
        assert repr(kind) in message


async def test_unknown_model(anthropic: AsyncAnthropic, client: Client) -> None:
    status, kind, message = await rejection(anthropic, model="nope")
    assert (status, kind) == (404, "not_found_error")
    assert "'nope'" in message
    counted = await client.post(
        f"{PATH}/count_tokens", json={"model": "nope", "messages": QUESTION}
    )
    assert counted.status_code == 404
    assert (await counted.get_json())["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (PoolBusy("full"), 429, "rate_limit_error"),
        (PoolUnavailable("none"), 503, "overloaded_error"),
        (RequestLost("lost"), 500, "api_error"),
        (ZeroDivisionError("/secret/path"), 500, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_answer(
    anthropic: AsyncAnthropic,
    pool: FakePool,
    failure: Exception,
    status: int,
    kind: str,
    stream: bool,
) -> None:
    pool.failure = failure
    error = await rejection(anthropic, stream=stream)
    assert error[:2] == (status, kind)
    assert "secret" not in error[2]


async def test_a_stream_that_fails_ends_with_one_error_event(
    client: Client, anthropic: AsyncAnthropic, pool: FakePool
) -> None:
    pool.failure, pool.fail_after = RequestLost("its workers have failed"), 3
    read = await events(client)
    kinds = [event["type"] for event in read]
    assert kinds.count("error") == 1
    assert kinds[-1] == "error"
    assert "message_stop" not in kinds
    assert kinds.count("content_block_delta") == 3
    assert read[-1]["error"] == {"type": "api_error", "message": "its workers have failed"}
    with pytest.raises(APIStatusError, match="its workers have failed"):
        async with anthropic.messages.stream(**REQUEST) as stream:
            await stream.get_final_message()


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"{", {"content-type": "application/json"}, 400, "invalid_request_error"),
        (b"{}", {"content-type": "text/plain"}, 400, "invalid_request_error"),
        (
            b"{}",
            {"content-type": "application/json", "content-encoding": "gzip"},
            415,
            "invalid_request_error",
        ),
        (b" " * 2000, {"content-type": "application/json"}, 413, "request_too_large"),
        (
            b"{}",
            {"content-type": "application/json", "host": "a/v1/models?"},
            400,
            "invalid_request_error",
        ),
    ],
)
async def test_errors_before_the_request_is_read(
    make_app: MAKE_APP, body: bytes, headers: dict[str, str], status: int, kind: str
) -> None:
    client = make_app(max_body_bytes=1000).test_client()
    for path in (PATH, f"{PATH}/count_tokens"):
        response = await client.post(path, data=body, headers=headers)
        found = await response.get_json()
        assert response.status_code == status
        assert (found["type"], found["error"]["type"]) == ("error", kind)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", PATH, 405, "invalid_request_error"),
        ("DELETE", f"{PATH}/count_tokens", 405, "invalid_request_error"),
        ("POST", f"{PATH}/batches", 404, "not_found_error"),
        ("GET", f"{PATH}/batches/x", 404, "not_found_error"),
        ("POST", f"{PATH}/", 404, "not_found_error"),
    ],
)
async def test_errors_without_a_route_have_the_same_shape(
    client: Client, method: str, path: str, status: int, kind: str
) -> None:
    response = await client.open(path, method=method, json={})
    found = await response.get_json()
    assert response.status_code == status
    assert found["type"] == "error"
    assert found["error"]["type"] == kind
    assert found["request_id"] == response.headers["request-id"]
    assert response.headers.get("allow") == ("POST" if status == 405 else None)
    elsewhere = await client.open("/v1/messagesx", method=method, json={})
    assert await elsewhere.get_json() == {"detail": "Not Found"}


async def test_counts_as_in_flight_until_it_has_ended(make_app: MAKE_APP, pool: FakePool) -> None:
    from tests.frontend.asgi import post

    app = make_app()
    pool.hold_after = 2
    exchange = post(app, PATH, {**REQUEST, "stream": True})
    await exchange.wait_for_chunks(1)
    load = await (await app.test_client().get("/load")).get_json()
    assert load == {"server_load": 1}
    await exchange.disconnect()
    assert pool.streams[0].cancelled
    load = await (await app.test_client().get("/load")).get_json()
    assert load == {"server_load": 0}
    metrics = await (await app.test_client().get("/metrics")).get_data(as_text=True)
    assert f'handler="{PATH}"' in metrics


async def test_a_thinking_budget_that_cannot_be_held_is_no_error(
    anthropic: AsyncAnthropic, pool: FakePool
) -> None:
    """Clients cannot turn thinking on without one, whatever the model."""
    thinking = {"type": "enabled", "budget_tokens": 1024}
    message = await both(anthropic, thinking=thinking)
    assert message["content"] == [{"type": "text", "text": ANSWER}]
    assert all(request.sampling.thinking_budget is None for request in pool.requests)
