"""Input items of all types that clients send: read as messages, or left out and named."""

import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.errors import ApiError
from headrace.frontend.responses.request.conversation import chat_messages
from headrace.frontend.responses.request.input_items import read_items
from headrace.frontend.responses.request.sealed_text import seal
from tests.frontend.responses.response_asking import PATH, ask, get
from tests.frontend.responses.response_script import Script

ID = "resp_" + "0" * 32
USER = {"role": "user", "content": "Hi"}


def messages(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return chat_messages(None, read_items(list(items), ID, {}).items)


def test_a_custom_call_and_its_output() -> None:
    call = {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": 'a "b"\n'}
    part = {"type": "input_text", "text": "done"}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": [part, part]}
    assistant, tool = messages({**call, "namespace": "fs", "status": None}, output)
    function = assistant["tool_calls"][0]["function"]
    assert function["name"] == "fs__patch"
    assert json.loads(function["arguments"]) == {"input": 'a "b"\n'}
    assert tool == {"role": "tool", "tool_call_id": "c", "content": "donedone"}


ACTIONS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls"], "env": {}}},
        "local_shell",
        {"type": "exec", "command": ["ls"], "env": {}},
    ),
    (
        {"type": "shell_call", "action": {"commands": ["ls"], "timeout_ms": None}},
        "shell",
        {"commands": ["ls"], "timeout_ms": None},
    ),
    (
        {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
        "apply_patch",
        {"type": "delete_file", "path": "a"},
    ),
    ({"type": "computer_call", "action": {"type": "wait"}}, "computer", {"type": "wait"}),
    (
        {"type": "computer_call", "actions": [{"type": "wait"}]},
        "computer",
        {"actions": [{"type": "wait"}]},
    ),
    (
        {"type": "tool_search_call", "execution": "client", "arguments": {"query": "files"}},
        "tool_search",
        {"query": "files"},
    ),
    ({"type": "tool_search_call", "arguments": None}, "tool_search", {}),
    ({"type": "function_call", "name": "look", "arguments": None}, "look", {}),
    ({"type": "function_call", "name": "look"}, "look", {}),
    (
        {"type": "function_call", "name": "look", "arguments": {"at": 1}},
        "look",
        {"at": 1},
    ),
]


@pytest.mark.parametrize(("item", "name", "arguments"), ACTIONS)
@pytest.mark.parametrize("field", ["call_id", "id"])
def test_calls_that_clients_have_run(
    item: dict[str, Any], name: str, arguments: dict[str, Any], field: str
) -> None:
    (message,) = messages({**item, field: "c"})
    (call,) = message["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("c", name)
    assert json.loads(call["function"]["arguments"]) == arguments


SHELL = {"stdout": "a\n", "stderr": "b", "outcome": {"type": "exit", "exit_code": 2}}
OUTPUTS: list[tuple[dict[str, Any], str]] = [
    ({"type": "local_shell_call_output", "output": "[]"}, "[]"),
    ({"type": "shell_call_output", "output": [SHELL]}, "a\n\nb\n(exit code 2)"),
    (
        {"type": "shell_call_output", "output": [{"stdout": "", "outcome": {"type": "timeout"}}]},
        "(timed out)",
    ),
    ({"type": "shell_call_output", "output": "as text"}, "as text"),
    ({"type": "apply_patch_call_output", "status": "failed", "output": "no file"}, "no file"),
    ({"type": "apply_patch_call_output", "status": "failed"}, "failed"),
    ({"type": "computer_call_output", "output": {"type": "input_text", "text": "ok"}}, "ok"),
    (
        {
            "type": "tool_search_output",
            "tools": [{"name": "f"}, {"name": "n", "tools": [{"name": "g"}]}, 5],
        },
        "Tools: f, n__g",
    ),
    ({"type": "tool_search_output", "tools": None}, "Tools: none"),
    ({"type": "function_call_output", "output": None}, ""),
]


@pytest.mark.parametrize(("item", "text"), OUTPUTS)
def test_outputs_of_calls_with_and_without_their_call(item: dict[str, Any], text: str) -> None:
    assert messages({**item, "call_id": "c"}) == [
        {"role": "tool", "tool_call_id": "c", "content": text}
    ]


HOSTED: list[tuple[dict[str, Any], str, dict[str, Any], str]] = [
    (
        {
            "type": "file_search_call",
            "queries": ["q"],
            "results": [{"filename": "a.txt", "text": "A"}, {"text": "B"}],
        },
        "file_search",
        {"queries": ["q"]},
        "a.txt\nA\n\nB",
    ),
    (
        {
            "type": "code_interpreter_call",
            "code": "1+1",
            "outputs": [{"type": "logs", "logs": "2"}],
        },
        "code_interpreter",
        {"code": "1+1"},
        "2",
    ),
    (
        {
            "type": "web_search_call",
            "action": {"type": "search", "query": "q"},
            "results": [{"title": "T", "url": "http://x", "snippet": "S"}],
        },
        "web_search",
        {"action": {"type": "search", "query": "q"}},
        "T\nhttp://x\nS",
    ),
]


@pytest.mark.parametrize(("item", "name", "arguments", "text"), HOSTED)
def test_calls_that_other_servers_have_run(
    item: dict[str, Any], name: str, arguments: dict[str, Any], text: str
) -> None:
    assistant, tool = messages({**item, "id": "x", "status": "completed"})
    function = assistant["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == (name, arguments)
    assert tool["content"] == text


LEFT_OUT: list[dict[str, Any]] = [
    {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "x"}},
    {"type": "file_search_call", "id": "fs", "queries": ["x"], "results": None},
    {"type": "code_interpreter_call", "id": "ci", "code": "x", "outputs": None},
    {"type": "image_generation_call", "id": "ig", "result": "aGk=", "status": "completed"},
    {"type": "compaction", "id": "cmp", "encrypted_content": "gAAAAA"},
    {"type": "compaction_summary", "encrypted_content": "gAAAAA"},
    {"type": "context_compaction", "encrypted_content": None},
    {"type": "mcp_approval_request", "id": "a", "name": "f", "server_label": "s", "arguments": ""},
    {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True},
    {"type": "configuration_update", "reasoning": {}},
    {"type": "program", "id": "p", "call_id": "c", "code": "x", "fingerprint": "f"},
    {"type": "ghost_snapshot", "ghost_commit": {"id": "abc"}},
    {"type": "agent_message", "content": [{"type": "encrypted_content", "data": "x"}]},
    {"type": "made_up_tomorrow", "content": {"text": "x"}},
]


async def test_unknown_fields_of_items_are_named(client: Client) -> None:
    part = {"type": "input_text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    items = [
        {**USER, "timestamp": "2026", "reasoning_details": None},
        {"role": "user", "content": [part], "provider_specific_fields": {"a": 1}},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "index": 0},
        {"type": "function_call_output", "call_id": "c", "output": "x", "name": "f"},
        {"type": "reasoning", "summary": [], "signature": "x"},
    ]
    answer = await client.post(PATH, json={"input": items})
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    assert answer.headers["X-Headrace-Ignored-Fields"].split(", ") == [
        "input.timestamp",
        "input.provider_specific_fields",
        "input.content.cache_control",
        "input.index",
        "input.signature",
    ]
    answer = await client.post(PATH, json={"input": [USER]})
    assert "X-Headrace-Ignored-Fields" not in answer.headers


@pytest.mark.parametrize("item", LEFT_OUT, ids=lambda item: str(item["type"]))
async def test_items_that_say_nothing_are_left_out_and_named(
    client: Client, item: dict[str, Any]
) -> None:
    answer = await client.post(PATH, json={"input": [USER, item]})
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    assert answer.headers["X-Headrace-Ignored-Fields"] == f"input.{item['type']}"
    body = await answer.get_json()
    stored = (await get(client, f"{body['id']}/input_items"))["data"]
    assert [each["type"] for each in stored] == ["message"]


@pytest.mark.parametrize(
    ("item", "role", "text"),
    [
        (
            {
                "type": "agent_message",
                "author": "/root/a",
                "content": [{"type": "input_text", "text": "Done."}, {"type": "other", "x": 1}],
            },
            "user",
            "Done.",
        ),
        ({"type": "made_up_tomorrow", "role": "assistant", "content": "So."}, "assistant", "So."),
        ({"type": "made_up_tomorrow", "role": "robot", "content": ["a", "b"]}, "user", "a\nb"),
    ],
)
def test_what_unknown_items_say_is_a_message(item: dict[str, Any], role: str, text: str) -> None:
    assert messages(item) == [{"role": role, "content": text}]


def test_reasoning_in_each_form() -> None:
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": seal("Hm é.")}
    strange = {"type": "reasoning", "summary": None, "encrypted_content": "gAAAAA"}
    said = {"role": "assistant", "content": "So."}
    assert messages(sealed, said) == [{"role": "assistant", "content": "So.", "reasoning": "Hm é."}]
    assert messages(strange, said) == [{"role": "assistant", "content": "So."}]
    assert messages(strange) == []


def test_content_of_all_kinds_is_text() -> None:
    kinds = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
    parts: list[Any] = [{"type": kind, "text": kind} for kind in kinds]
    assert messages({"role": "user", "content": parts})[0]["content"] == "\n".join(kinds)
    assert messages({"role": "assistant", "content": None}, USER)[-1]["content"] == "Hi"


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}


@pytest.mark.parametrize(
    ("where", "item"),
    [
        ("input.0.content.0.type", {"role": "user", "content": [IMAGE]}),
        ("input.0.content.0.type", {"role": "user", "content": [{"type": "input_file"}]}),
        (
            "input.0.output.0.type",
            {"type": "function_call_output", "call_id": "c", "output": [IMAGE]},
        ),
        (
            "input.0.output.type",
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {"type": "computer_screenshot", "image_url": "x"},
            },
        ),
        ("body.input.0.call_id", {"type": "custom_tool_call", "name": "f", "input": "x"}),
        ("body.input.0.input", {"type": "custom_tool_call", "name": "f", "call_id": "c"}),
        ("body.input.0.action", {"type": "shell_call", "call_id": "c"}),
        ("body.input.0.operation", {"type": "apply_patch_call", "call_id": "c", "operation": "x"}),
        (
            "body.input.0.namespace",
            {"type": "function_call", "name": "f", "call_id": "c", "namespace": 5},
        ),
        ("input.0.type", {"type": "x" * 300}),
    ],
)
def test_what_a_model_cannot_read_is_refused_by_name(where: str, item: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        messages(item)
    assert caught.value.param == where


def test_items_that_are_nested_too_deeply_are_refused() -> None:
    action: dict[str, Any] = {}
    for _ in range(300):
        action = {"x": action}
    for item in (
        {"type": "shell_call", "call_id": "c", "action": action},
        {"type": "tool_search_call", "call_id": "c", "arguments": action},
    ):
        with pytest.raises(ApiError, match="nested"):
            messages(item)


async def test_items_of_all_kinds_are_kept_and_continued(client: Client, script: Script) -> None:
    """The items of earlier responses come from the store."""
    script.says = ["One.", "Two.", "Three."]
    items: list[dict[str, Any]] = [USER]
    kept: list[dict[str, Any]] = [item for item, *_ in ACTIONS]
    kept += [item for item, _ in OUTPUTS]
    items += [{**item, "call_id": f"c{number}"} for number, item in enumerate(kept)]
    hosted: list[dict[str, Any]] = [item for item, _, _, _ in HOSTED]
    items += [{**item, "id": f"h{number}"} for number, item in enumerate(hosted)]
    first = await ask(client, input=items)
    stored = (await get(client, f"{first['id']}/input_items?limit=100&order=asc"))["data"]
    assert [item["type"] for item in stored] == [item.get("type", "message") for item in items]
    assert len({item["id"] for item in stored}) == len(items)
    await ask(client, previous_response_id=first["id"], input="More?")
    before, after = (chat["messages"] for chat in script.chats)
    assert after[: len(before)] == before
    await ask(client, input=[*stored, {"role": "user", "content": "Sent back."}])
    assert script.chats[-1]["messages"][: len(before)] == before
