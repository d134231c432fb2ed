"""Tools of other types than functions: namespaces, custom tools, and those that cannot be run."""

import json
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from tests.frontend.conftest import Serve
from tests.frontend.responses.response_asking import PATH, ask, follow, refusal, stream
from tests.frontend.responses.response_script import Script


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}, **fields}


def namespace(name: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "namespace", "name": name, "description": "Files.", "tools": list(tools)}


PATCH = {"type": "custom", "name": "patch", "description": "Changes files."}
# Each as some client sends it.
HOSTED = [
    {"type": "web_search", "external_web_access": False},
    {"type": "web_search_preview", "search_context_size": "low"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "image_generation", "output_format": "png"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "computer_use_preview", "display_width": 9, "display_height": 9, "environment": "mac"},
    {"type": "local_shell"},
    {"type": "shell", "environment": {"type": "local"}},
    {"type": "apply_patch"},
    {"type": "tool_search", "execution": "server"},
    {"type": "made_up_tomorrow", "x": [1]},
]


def offered(script: Script) -> list[str]:
    return [tool["function"]["name"] for tool in script.chats[-1].get("tools", [])]


async def ignored_by(client: Client, **body: Any) -> list[str]:
    answer = await client.post(PATH, json={"input": "Hello", **body})
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    return str(answer.headers.get("X-Headrace-Ignored-Fields", "")).split(", ")


async def test_tools_of_a_namespace_are_functions_of_its_name(
    client: Client, script: Script
) -> None:
    script.says = ['<call files__read {"p": "x"}>', "Done."]
    tools = [function("read"), namespace("files", function("read"), function("write"))]
    events = await stream(client, tools=tools)
    assert offered(script) == ["read", "files__read", "files__write"]
    body = events[-1].data["response"]
    (call,) = body["output"]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "files", "read")
    assert call["arguments"] == '{"p": "x"}'
    added = next(event for event in events if event.kind == "output_item.added")
    assert added.data["item"]["namespace"] == "files"
    assert body["tools"][1]["tools"][1]["name"] == "write"
    # What is sent back is the call that the model made.
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "text"}
    await ask(client, tools=tools, input=[{"role": "user", "content": "Hi"}, call, result])
    sent = script.chats[-1]["messages"][1]["tool_calls"][0]["function"]
    assert sent == {"name": "files__read", "arguments": '{"p": "x"}'}


async def test_a_model_may_leave_the_namespace_out(client: Client, script: Script) -> None:
    script.says = ["<call write {}>", "<call read {}>"]
    tools = [namespace("a", function("read"), function("write")), namespace("b", function("read"))]
    (call,) = (await ask(client, tools=tools))["output"]
    assert (call["namespace"], call["name"]) == ("a", "write")
    (call,) = (await ask(client, tools=tools, input="Which?"))["output"]
    assert ("namespace" in call, call["name"]) == (False, "read")


async def test_a_custom_tool_is_a_function_of_one_string(client: Client, script: Script) -> None:
    text = '*** Begin "x"\n+é'
    script.says = [f"<call patch {json.dumps({'input': text})}>", "Done."]
    events = await stream(client, tools=[PATCH])
    schema = script.chats[0]["tools"][0]["function"]["parameters"]
    assert (schema["properties"], schema["required"]) == ({"input": {"type": "string"}}, ["input"])
    (call,) = events[-1].data["response"]["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "patch", text)
    kinds = [event.kind for event in events]
    assert kinds[2] == "output_item.added"
    assert kinds[-3:] == ["custom_tool_call_input.done", "output_item.done", "completed"]
    deltas = [event.data for event in events if event.kind == "custom_tool_call_input.delta"]
    assert "".join(delta["delta"] for delta in deltas) == text
    assert {delta["item_id"] for delta in deltas} == {call["id"]}
    assert events[-3].data["input"] == text
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "ok"}
    await ask(client, tools=[PATCH], input=[call, result])
    said, tool = script.chats[-1]["messages"]
    sent = said["tool_calls"][0]["function"]
    assert (sent["name"], json.loads(sent["arguments"])) == ("patch", {"input": text})
    assert (tool["tool_call_id"], tool["content"]) == (call["call_id"], "ok")


SEARCH = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds tools.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}


async def test_a_client_searches_for_tools(client: Client, script: Script) -> None:
    script.says = ['<call tool_search {"query": "files"}>', "<call files__read {}>"]
    events = await stream(client, tools=[SEARCH])
    sent = script.chats[0]["tools"][0]["function"]
    assert (sent["name"], sent["description"]) == ("tool_search", "Finds tools.")
    body = events[-1].data["response"]
    (call,) = body["output"]
    assert (call["type"], call["execution"]) == ("tool_search_call", "client")
    assert call["arguments"] == {"query": "files"}
    assert "name" not in call
    assert [event.kind for event in events][2:] == [
        "output_item.added",
        "output_item.done",
        "completed",
    ]
    again = await follow(client, body["id"])
    assert [event.data["item"] for event in again if event.kind == "output_item.done"] == [call]
    found = {
        "type": "tool_search_output",
        "call_id": call["call_id"],
        "execution": "client",
        "tools": [namespace("files", function("read"))],
    }
    said = [{"role": "user", "content": "Hello"}, call, found]
    (read,) = (await ask(client, tools=[SEARCH], input=said))["output"]
    assert (read["namespace"], read["name"]) == ("files", "read")
    messages = script.chats[-1]["messages"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"query": "files"}'
    assert messages[2]["content"] == "Tools: files__read"


async def test_calls_of_each_kind_can_be_told_again(client: Client, script: Script) -> None:
    script.says = ['<call a__patch {"input": "x\\ny"}><call a__read {}><call read {}>']
    tools = [namespace("a", PATCH, function("read")), function("read")]
    body = await ask(client, tools=tools)
    events = await follow(client, body["id"])
    assert [event.data["item"] for event in events if event.kind == "output_item.done"] == (
        body["output"]
    )
    kinds = [item["type"] for item in body["output"]]
    assert kinds == ["custom_tool_call", "function_call", "function_call"]
    assert body["output"][0]["namespace"] == "a"


@pytest.mark.parametrize(
    ("format_", "schema", "strict"),
    [
        ({"type": "text"}, {"type": "string"}, None),
        (
            {"type": "grammar", "syntax": "regex", "definition": "a|b"},
            {"type": "string", "pattern": "^(?:a|b)$"},
            True,
        ),
        (
            {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'},
            {"type": "string"},
            None,
        ),
    ],
)
async def test_the_format_of_a_custom_tool(
    client: Client, script: Script, format_: dict[str, str], schema: dict[str, str], strict: bool
) -> None:
    script.says = ["No."]
    ignored = await ignored_by(client, tools=[{**PATCH, "format": format_}])
    sent = script.chats[0]["tools"][0]["function"]
    assert sent["parameters"]["properties"]["input"] == schema
    assert sent.get("strict") == strict
    is_lark = format_.get("syntax") == "lark"
    assert (("tools.format" in ignored), ('start: "a"' in sent["description"])) == (
        is_lark,
        is_lark,
    )


@pytest.mark.parametrize("tool", HOSTED, ids=lambda tool: str(tool["type"]))
async def test_tools_that_cannot_be_run_are_left_out(
    client: Client, script: Script, tool: dict[str, Any]
) -> None:
    script.says = ["No.", "No.", "No."]
    assert f"tools.{tool['type']}" in await ignored_by(client, tools=[function("look"), tool])
    assert offered(script) == ["look"]
    await stream(client, tools=[tool])
    assert offered(script) == []
    await stream(client, tools=[namespace("n", tool, function("look"))])
    assert offered(script) == ["n__look"]


async def test_tools_that_cannot_be_run_are_shown_where_the_api_knows_them(
    client: Client, script: Script
) -> None:
    script.says = ["No."]
    body = await ask(client, tools=[*HOSTED, function("look")])
    shown = [tool["type"] for tool in body["tools"]]
    assert shown[0] == "web_search"
    assert shown[-1] == "function"
    assert "made_up_tomorrow" not in shown


@pytest.mark.parametrize("tool", HOSTED, ids=lambda tool: str(tool["type"]))
async def test_tools_that_cannot_be_run_cannot_be_forced(
    client: Client, tool: dict[str, Any]
) -> None:
    choice = {"type": tool["type"]}
    for tools, tool_choice in (
        ([tool], "required"),
        ([tool, function("look")], choice),
        ([tool], {"type": "allowed_tools", "mode": "required", "tools": [choice]}),
    ):
        param, _ = await refusal(client, tools=tools, tool_choice=tool_choice)
        assert param == "tool_choice"


CHOICES: list[tuple[Any, Any, list[str]]] = [
    (
        {"type": "custom", "name": "patch"},
        {"type": "function", "function": {"name": "patch"}},
        ["read", "patch", "a__read", "a__write"],
    ),
    (
        {"type": "function", "name": "write"},
        {"type": "function", "function": {"name": "a__write"}},
        ["read", "patch", "a__read", "a__write"],
    ),
    (
        {"type": "function", "name": "read", "namespace": "a"},
        {"type": "function", "function": {"name": "a__read"}},
        ["read", "patch", "a__read", "a__write"],
    ),
    (
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "custom", "name": "patch"}, {"type": "namespace", "name": "a"}],
        },
        "required",
        ["patch", "a__read", "a__write"],
    ),
    (
        {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "web_search"}, {"type": "function", "name": "read"}],
        },
        "auto",
        ["read"],
    ),
    ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, None, []),
]


@pytest.mark.parametrize(("choice", "sent", "names"), CHOICES)
async def test_choices_of_tools(
    client: Client, script: Script, choice: dict[str, Any], sent: Any, names: list[str]
) -> None:
    script.says = ["No."]
    tools = [function("read"), PATCH, namespace("a", function("read"), function("write"))]
    events = await stream(client, tools=tools, tool_choice=choice)
    assert script.chats[-1].get("tool_choice") == sent
    assert offered(script) == names
    assert events[-1].data["response"]["tool_choice"]["type"] == choice["type"]


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "read"},
        {"type": "function", "name": "read", "namespace": "c"},
        {"type": "custom", "name": "nope"},
        {"type": "namespace", "name": "a"},
        {"type": "mcp", "server_label": "nope"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "nope"}]},
    ],
)
async def test_choices_of_tools_that_mean_none_or_several(
    client: Client, choice: dict[str, Any]
) -> None:
    tools = [namespace("a", function("read")), namespace("b", function("read"))]
    assert (await refusal(client, tools=tools, tool_choice=choice))[0] == "tool_choice"


async def test_a_server_is_chosen_as_a_whole(serve: Serve, script: Script) -> None:
    script.says = ["No."]
    demo = {"type": "mcp", "server_label": "demo", "require_approval": "never"}
    choice = {"type": "mcp", "server_label": "demo"}
    async with serve(tool_server="demo") as client:
        body = await ask(client, tools=[demo, PATCH], tool_choice=choice)
    assert offered(script) == ["current_time", "calculate"]
    assert script.chats[-1]["tool_choice"] == "required"
    assert body["tool_choice"] == choice


@pytest.mark.parametrize("kind", ["additional_tools", "tool_search_output"])
async def test_items_make_tools_available(client: Client, script: Script, kind: str) -> None:
    script.says = ["<call late {}>"]
    item = {"type": kind, "call_id": "c", "tools": [function("late"), function("look")]}
    said = {"role": "user", "content": "Hi"}
    body = await ask(client, tools=[function("look")], input=[said, item, item])
    assert offered(script) == ["look", "late"]
    assert body["output"][0]["name"] == "late"


@pytest.mark.parametrize(
    ("param", "tool"),
    [
        ("body.tools.0.name", {"type": "custom"}),
        ("tools.0.format.syntax", {**PATCH, "format": {"type": "grammar", "syntax": "ebnf"}}),
        ("tools.0.format.type", {**PATCH, "format": {"type": "xml"}}),
        ("body.tools.0.format", {**PATCH, "format": "text"}),
        ("body.tools.0.tools", {"type": "namespace", "name": "n"}),
        ("body.tools.0.tools.0.name", namespace("n", {"type": "function"})),
        ("body.tools.0.tools.0", {"type": "namespace", "name": "n", "tools": ["f"]}),
        ("body.tools.0.description", {**PATCH, "description": 5}),
        ("tools", namespace("n", function("f"), function("f"))),
    ],
)
async def test_invalid_tools_name_their_field(
    client: Client, param: str, tool: dict[str, Any]
) -> None:
    assert (await refusal(client, tools=[tool]))[0] == param


async def test_unknown_fields_of_tools_are_named(client: Client, script: Script) -> None:
    script.says = ["No."]
    tool = function("look", defer_loading=True, cache_control={"type": "ephemeral"}, x=None)
    assert await ignored_by(client, tools=[tool]) == ["tools.defer_loading", "tools.cache_control"]


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("body.tools.web_search", {"tools": [{"type": "web_search"}]}),
        ("body.tools.defer_loading", {"tools": [function("look", defer_loading=True)]}),
        ("body.input.ghost_snapshot", {"input": [{"type": "ghost_snapshot"}]}),
    ],
)
async def test_nothing_is_left_out_where_the_operator_wants_errors(
    serve: Serve, param: str, body: dict[str, Any]
) -> None:
    async with serve(strict_fields=True) as client:
        assert (await refusal(client, **body))[0] == param
