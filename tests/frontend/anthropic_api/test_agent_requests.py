"""Messages requests as agents send them: with fields and blocks of other servers' features."""

import json
from typing import Any

import pytest
from quart import Response
from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import ServingOptions
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE

PATH = "/v1/messages"
HEADER = "X-Headrace-Ignored-Fields"
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
REQUEST: dict[str, Any] = {"model": "smol", "max_tokens": 50, "messages": [USER]}
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "5m", "scope": "global"}}
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
TYPED: list[dict[str, Any]] = [
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    {"type": "computer_20250124", "name": "computer", "display_width_px": 9},
    {"type": "code_execution_20250825", "name": "code_execution"},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "mcp_toolset", "mcp_server_name": "x"},
]
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


async def post(
    client: Client, path: str = PATH, /, headers: dict[str, str] | None = None, **fields: Any
) -> tuple[Response, Any]:
    response = await client.post(path, json={**REQUEST, **fields}, headers=headers)
    return response, json.loads(await response.get_data())


async def prompt(client: Client, pool: FakePool, text: ModelTokenizer, **fields: Any) -> str:
    """The prompt that a request becomes."""
    response, body = await post(client, **fields)
    assert response.status_code == 200, body
    ids = list(pool.requests[-1].prompt_token_ids)
    return text.backend.decode(ids, skip_special_tokens=False)


def turn(role: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def said(text: str, **others: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **others}


async def test_fields_of_other_servers_change_nothing(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    plain = await prompt(client, pool, text, system="Be brief.")
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "context-management-2025-06-27"}
    response, body = await post(
        client,
        f"{PATH}?beta=true",
        headers=headers,
        system=[said("Be brief.", **CACHED)],
        messages=[turn("user", said("Hi", **CACHED))],
        metadata={"user_id": json.dumps({"device_id": "d" * 64, "session_id": "s"}), "more": 1},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        betas=["context-management-2025-06-27"],
        service_tier="auto",
        mcp_servers=[],
        container=None,
        thinking={"type": "adaptive", "display": "updates"},
        output_config={"effort": "high", "task_budget": {"type": "tokens", "total": 9}},
        diagnostics={},
        fallbacks=[],
    )
    assert response.status_code == 200, body
    assert text.backend.decode(list(pool.requests[-1].prompt_token_ids), False) == plain
    named = set(response.headers[HEADER].split(", "))
    assert named == {"betas", "fallbacks", "metadata.more", "output_config.task_budget"}


@pytest.mark.parametrize("choice", [None, {"type": "auto"}, {"type": "none"}])
async def test_tools_that_are_known_by_type_are_left_out(
    make_app: MAKE_APP, text: ModelTokenizer, pool: FakePool, choice: dict[str, Any] | None
) -> None:
    template = CHAT_TEMPLATE + "{{ tools | map(attribute='function.name') | join(' ') }}"
    info = text.info.model_copy(update={"chat_template": "{{ tools is none }}|" + template})
    serving = ServingOptions(enable_auto_tool_choice=True, tool_call_parser="hermes")
    client = make_app(type(text)(info, text.backend), serving).test_client()
    custom = {**WEATHER, **CACHED, "defer_loading": True, "eager_input_streaming": True}
    response, body = await post(client, tools=[*TYPED, custom], tool_choice=choice)
    assert response.status_code == 200, body
    assert text.backend.decode(list(pool.requests[-1].prompt_token_ids)).endswith("weather")
    assert response.headers[HEADER].split(", ") == [f"tools.{tool['type']}" for tool in TYPED]
    response, body = await post(client, tools=TYPED, tool_choice=choice)
    assert response.status_code == 200, body
    response, body = await post(client, f"{PATH}/count_tokens", tools=[*TYPED, custom])
    assert response.status_code == 200, body


async def test_errors_name_a_tool_by_its_own_place(client: Client) -> None:
    tools = [TYPED[0], WEATHER, TYPED[1], {**WEATHER, "name": "a\tb"}]
    response, body = await post(client, tools=tools)
    assert response.status_code == 400
    assert body["error"]["message"].startswith("tools.3.name: ")


async def test_typed_tool_with_a_schema_is_a_function(client: Client, pool: FakePool) -> None:
    tool = {**WEATHER, "type": "function"}
    chosen = {"type": "tool", "name": "weather"}
    response, body = await post(client, tools=[tool], tool_choice=chosen)
    assert response.status_code == 200, body
    assert pool.requests[-1].grammar is not None


async def test_history_of_another_servers_tools(
    client: Client, pool: FakePool, text: ModelTokenizer
) -> None:
    hit = {"type": "web_search_result", "url": "http://a", "title": "T", "encrypted_content": "E"}
    history = [
        USER,
        turn(
            "assistant",
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            said("I search."),
            {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"q": "a"}},
            {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [hit], **CACHED},
            {"type": "mcp_tool_use", "id": "m", "name": "echo", "server_name": "x", "input": {}},
            {
                "type": "mcp_tool_result",
                "tool_use_id": "m",
                "is_error": False,
                "content": [said("pong"), said("ping")],
            },
            {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
            said("Found.", citations=[{"type": "web_search_result_location"}]),
            {"type": "compaction", "content": "Before, we talked."},
        ),
        USER,
    ]
    made = await prompt(client, pool, text, messages=history)
    assert made.index("I search.") < made.index('"url": "http://a"') < made.index("pong\nping")
    assert made.index("pong") < made.index("Found.\nBefore, we talked.")
    assert "encrypted" not in made
    response, _ = await post(client, messages=history)
    assert response.headers[HEADER] == "messages.content.fallback"


async def test_of_many_parts_that_are_left_out_some_are_named(client: Client) -> None:
    blocks = [{"type": f"note_{number}"} for number in range(5000)]
    tools = [{"type": f"tool_{number}"} for number in range(1000)]
    messages = [USER, turn("assistant", *blocks), USER]
    response, body = await post(client, messages=messages, tools=tools)
    assert response.status_code == 200, body
    named = response.headers[HEADER].split(", ")
    assert {"tools.tool_0", "messages.content.note_0"} <= set(named)
    assert len(response.headers[HEADER]) < 1100
    assert named[-1] == "..." or len(named) == 64


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("plain", "plain"),
        (None, ""),
        ([], ""),
        ([said("a", **CACHED), said("b")], "a\nb"),
        ([{"type": "tool_reference", "tool_name": "grep"}], "Tool: grep"),
        (
            [
                {
                    "type": "search_result",
                    "source": "http://a",
                    "title": "T",
                    "content": [said("x"), said("y")],
                    "citations": {"enabled": True},
                }
            ],
            "T\nhttp://a\nx\ny",
        ),
        (
            [{"type": "document", "title": "T", "source": {"type": "text", "data": "words"}}],
            "T\nwords",
        ),
        ([{"type": "document", "source": {"type": "content", "content": [said("z")]}}], "z"),
    ],
)
async def test_results_of_tools(
    client: Client, pool: FakePool, text: ModelTokenizer, content: Any, shown: str
) -> None:
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": "a", "is_error": None}
    if content is not None:
        result["content"] = content
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}, "caller": {"type": "direct"}}
    history = [USER, turn("assistant", call), turn("user", result)]
    made = await prompt(client, pool, text, messages=history)
    assert f"<|im_start|>tool\n{shown}<|im_end|>" in made


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": PNG},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}},
        {"type": "document", "source": {"type": "url", "url": "http://a/b.pdf"}},
        {"type": "container_upload", "file_id": "f"},
        {"type": "never_heard_of"},
    ],
)
async def test_files_are_refused_by_type_and_place(client: Client, block: dict[str, Any]) -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": [said("x"), block]}
    for content, where in (
        ([said("x"), block], "messages.1.content.1: "),
        ([result], "messages.1.content.0.tool_result.content.1: "),
    ):
        response, body = await post(client, messages=[USER, turn("user", *content)])
        assert response.status_code == 400
        assert body["error"]["type"] == "invalid_request_error"
        assert body["error"]["message"].startswith(where)
        assert repr(block["type"]) in body["error"]["message"]


@pytest.mark.parametrize("kind", ["image", "document"])
async def test_files_in_answers_are_refused_too(client: Client, kind: str) -> None:
    messages = [USER, turn("assistant", {"type": kind, "source": PNG})]
    response, body = await post(client, messages=messages)
    assert response.status_code == 400
    assert body["error"]["message"].startswith("messages.1.content.0: ")


@pytest.mark.parametrize("given", [None, "", "{}", {}, [1], '{"a": 1}'])
async def test_inputs_of_calls_in_any_form(client: Client, given: Any) -> None:
    call = {"type": "tool_use", "id": "a", "name": "f", "input": given}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
    history = [USER, turn("assistant", call), turn("user", result)]
    response, body = await post(client, messages=history)
    assert response.status_code == 200, body


@pytest.mark.parametrize(
    "thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}]
)
@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
async def test_part_of_a_conversation_is_not_taken_for_all_of_it(
    client: Client, pool: FakePool, thread: dict[str, Any], path: str
) -> None:
    """The client's tool runner reacts to these details: it sends the whole conversation."""
    response, body = await post(client, path, thread=thread)
    assert response.status_code == 400
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["details"]["error_code"] == "thread_unsupported_request"
    assert body["error"]["message"].startswith("thread: ")
    assert pool.requests == []
    response, body = await post(client, path, thread=None)
    assert response.status_code == 200, body


async def test_format_of_older_clients(client: Client, pool: FakePool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    response, body = await post(client, output_format={"type": "json_schema", "schema": schema})
    assert response.status_code == 200, body
    grammar = pool.requests[-1].grammar
    assert grammar is not None
    assert '"a"' in grammar.text


async def test_depth_of_foreign_results_is_no_failure(client: Client) -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    block = {"type": "web_fetch_tool_result", "tool_use_id": "a", "content": deep}
    response, _ = await post(client, messages=[USER, turn("assistant", block), USER])
    assert response.status_code in (200, 400)
