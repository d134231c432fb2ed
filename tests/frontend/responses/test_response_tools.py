"""Tools that the server runs: the loop around them, its bounds, and whom it asks."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.responses.execution.response_run import MAX_TURNS
from headrace.frontend.responses.tools import demo_source as demo
from headrace.frontend.responses.tools import tool_servers as servers
from headrace.frontend.responses.tools.demo_source import calculate, current_time
from headrace.frontend.responses.tools.interface import ToolFailure, ToolSource, ToolSpec
from tests.frontend.conftest import Serve
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.response_asking import ask, follow, refusal, stream, text_of
from tests.frontend.responses.response_script import Script

DEMO = {"type": "mcp", "server_label": "demo", "require_approval": "never"}
FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object"}}
CALCULATE = '<call calculate {"expression": "6*7"}>'


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    async with serve(tool_server="demo") as client:
        yield client


async def test_a_tool_is_run_and_its_result_read(client: Client, script: Script) -> None:
    script.says = [CALCULATE, "It is 42."]
    events = await stream(client, tools=[DEMO], tool_choice="required")
    listed, call, message = events[-1].data["response"]["output"]
    assert [tool["name"] for tool in listed["tools"]] == ["current_time", "calculate"]
    assert (call["name"], call["arguments"]) == ("calculate", '{"expression": "6*7"}')
    assert (call["output"], call["error"], call["status"]) == ("42", None, "completed")
    assert message["content"][0]["text"] == "It is 42."
    assert script.chats[1]["messages"][-1]["content"] == "42"
    assert (script.chats[0]["tool_choice"], script.chats[1]["tool_choice"]) == ("required", "auto")
    of_call = [event.kind for event in events if event.data.get("output_index") == 1]
    assert of_call == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]
    usage = events[-1].data["response"]["usage"]
    details = usage["output_tokens_details"]["output_tokens_per_turn"]
    assert len(details) == 2
    assert sum(details) == usage["output_tokens"]


async def test_it_can_be_told_again_and_gone_on_with(client: Client, script: Script) -> None:
    script.says = [CALCULATE, "It is 42.", "Yes."]
    body = await ask(client, tools=[DEMO])
    events = await follow(client, body["id"])
    done = [event.data["item"] for event in events if event.kind == "output_item.done"]
    assert done == body["output"]
    await ask(client, tools=[DEMO], previous_response_id=body["id"], input="Sure?")
    roles = [message["role"] for message in script.chats[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


async def test_failures_are_told_to_the_model(client: Client, script: Script) -> None:
    script.says = ['<call calculate {"expression": "1/0"}>', "It has no value."]
    call = (await ask(client, tools=[DEMO]))["output"][1]
    assert (call["status"], call["output"]) == ("failed", None)
    assert call["error"]["content"] == "the expression has no value"
    assert "no value" in script.chats[1]["messages"][-1]["content"]


async def test_the_calls_of_one_response_are_bounded(client: Client, script: Script) -> None:
    script.says = [CALCULATE, CALCULATE.replace("6", "5"), "Enough."]
    body = await ask(client, tools=[DEMO], max_tool_calls=1)
    calls = [item for item in body["output"] if item["type"] == "mcp_call"]
    assert [call["status"] for call in calls] == ["completed", "failed"]
    assert [chat["tool_choice"] for chat in script.chats] == ["auto", "none", "none"]


async def test_the_turns_of_one_response_are_bounded(client: Client, script: Script) -> None:
    script.says = [f'<call calculate {{"expression": "{turn}"}}>' for turn in range(MAX_TURNS + 9)]
    body = await ask(client, tools=[DEMO])
    assert sum(item["type"] == "mcp_call" for item in body["output"]) == MAX_TURNS


async def test_output_tokens_are_bounded_over_all_turns(
    client: Client, script: Script, pool: FakePool
) -> None:
    script.says = [CALCULATE, "a long answer that is cut somewhere"]
    body = await ask(client, tools=[DEMO], max_output_tokens=40)
    used = body["usage"]["output_tokens_details"]["output_tokens_per_turn"]
    assert pool.requests[1].sampling.max_tokens == 40 - used[0]


async def test_calls_of_functions_are_left_to_the_client(client: Client, script: Script) -> None:
    script.says = [f'{CALCULATE}<call look {{"at": 1}}>']
    body = await ask(client, tools=[DEMO, FUNCTION])
    assert [item["type"] for item in body["output"]] == [
        "mcp_list_tools",
        "mcp_call",
        "function_call",
    ]
    assert body["status"] == "completed"
    assert body["output"][1]["output"] == "42"


async def test_only_allowed_tools_are_offered(client: Client, script: Script) -> None:
    script.says = ["No."]
    await ask(client, tools=[{**DEMO, "allowed_tools": ["current_time"]}])
    assert [tool["function"]["name"] for tool in script.chats[0]["tools"]] == ["current_time"]


@pytest.mark.parametrize(
    ("param", "tool"),
    [
        ("tools.0.server_label", {**DEMO, "server_label": "other"}),
        ("tools.0.server_url", {**DEMO, "server_url": "http://169.254.169.254/mcp"}),
        ("tools.0.server_url", {**DEMO, "server_url": "http://elsewhere:80/"}),
        ("tools.0.headers", {**DEMO, "headers": {"a": "b"}}),
        ("tools.0.connector_id", {**DEMO, "connector_id": "x"}),
        ("body.tools.0.allowed_tools", {**DEMO, "allowed_tools": [1]}),
        ("body.tools.0.server_description", {**DEMO, "server_description": 5}),
        ("tools", {"type": "function", "name": "calculate"}),
    ],
)
async def test_what_the_operator_has_not_named_is_refused(
    client: Client, script: Script, param: str, tool: dict[str, str]
) -> None:
    script.says = ["No."]
    tools = [tool, DEMO] if tool["type"] == "function" else [tool]
    assert (await refusal(client, tools=tools))[0] == param


async def test_arguments_that_are_no_json_fail_the_call_alone(
    client: Client, script: Script
) -> None:
    """Here and where the conversation continues: models write what they write."""
    script.says = ["<call calculate {6*7}>", "I cannot.", "Still not."]
    body = await ask(client, tools=[DEMO])
    assert (body["status"], text_of(body)) == ("completed", "I cannot.")
    assert body["output"][1]["error"]["content"] == "the arguments are not valid JSON"
    again = await ask(client, tools=[DEMO], previous_response_id=body["id"])
    assert text_of(again) == "Still not."


def _nested(depth: int) -> dict[str, Any]:
    return {"x": _nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ({"type": "function", "name": "look", "x": _nested(100)}, "function"),
        ({"type": "mcp", "server_label": "demo", "name": "calculate"}, "mcp"),
        ({"type": "mcp", "server_label": "demo"}, "mcp"),
        ({"type": "function", "name": "get_weather"}, None),
        ({"type": "mcp", "name": "calculate"}, None),
        ({"type": ["function"], "name": "calculate"}, None),
        ({"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION]}, "allowed_tools"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION, 3]}, None),
        ({"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION, {}]}, None),
        ({"type": "allowed_tools", "mode": ["auto"], "tools": [FUNCTION]}, None),
    ],
)
async def test_a_choice_of_tools_is_shown_or_refused(
    client: Client, script: Script, choice: dict[str, Any], shown: str | None
) -> None:
    """A choice that the events could not show would fail a response that has begun."""
    script.says = ["No."]
    fields = {"tools": [DEMO, FUNCTION], "tool_choice": choice}
    if shown is None:
        assert (await refusal(client, **fields))[0] == "tool_choice"
        return
    events = await stream(client, **fields)
    assert events[-1].data["response"]["tool_choice"]["type"] == shown


async def test_parameters_that_are_nested_too_deeply_are_refused(client: Client) -> None:
    tool = {**FUNCTION, "parameters": _nested(110)}
    assert (await refusal(client, tools=[tool], tool_choice="none"))[0] == "tools.0.parameters"


@pytest.mark.parametrize(
    ("expression", "value"),
    [("6*7", 42), ("2**10 - 1", 1023), ("-(3 + 4.5) / 2", -3.75), ("7 // 2 % 2", 1)],
)
def test_the_calculator(expression: str, value: float) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "2**5000",
        "9" * 150 + "**99",
        "1/0",
        "1e308*10",
        "__import__('os')",
        "a",
        "(" * 190,
        "'a'*9",
        "True+1",
        "1" * 300,
        None,
        "[1][0]",
        "1e400",
    ],
)
def test_the_calculator_refuses(expression: str) -> None:
    with pytest.raises(ToolFailure):
        calculate(expression)


class Uncomputed(int):
    """Computing a power of it would take for ever, so its size must be checked before."""

    def __pow__(self, exponent: int, modulo: int | None = None) -> int:  # type: ignore[override]
        raise AssertionError("computed")


def test_a_power_is_looked_at_before_it_is_computed() -> None:
    with pytest.raises(OverflowError):
        demo._power(Uncomputed(2), 5000)


def test_the_clock() -> None:
    assert current_time("UTC").endswith("+00:00")
    assert len(current_time("Europe/Vienna")) == len("2026-01-01T00:00:00+01:00")
    for zone in ("../../etc/passwd", "Nowhere/Else", 5, "/etc/localtime"):
        with pytest.raises(ToolFailure):
            current_time(zone)


async def test_a_call_has_a_deadline_and_its_result_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Source(ToolSource):
        async def list_tools(self) -> list[ToolSpec]:
            return []

        async def call(self, name: str, arguments: dict[str, Any]) -> str:
            await asyncio.sleep(0 if name == "long" else 60)
            return "x" * (servers.MAX_RESULT_CHARS + 1)

    monkeypatch.setattr(servers, "CALL_TIMEOUT_S", 0.01)
    with pytest.raises(ToolFailure, match="longer than"):
        await servers.call_tool(Source(), "slow", {})
    with pytest.raises(ToolFailure, match="characters"):
        await servers.call_tool(Source(), "long", {})
    with pytest.raises(ToolFailure, match="object"):
        await servers.call_tool(Source(), "long", [])


@pytest.fixture(params=["mcp", "sse"])
def mcp_server(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A real one, over HTTP in both ways; yields what an operator calls it, and its URL."""
    pytest.importorskip("mcp")
    import uvicorn
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("weather")

    @server.tool()
    def weather(city: str) -> str:
        """The weather in a city."""
        if city == "Atlantis":
            raise ValueError("there is no such city")
        return f"It rains in {city}."

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = server.sse_app() if request.param == "sse" else server.streamable_http_app()
    web = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(web.serve(sockets=[listener])))
    thread.start()
    while not web.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{port}/{request.param}"
    yield (url if request.param == "sse" else f"127.0.0.1:{port}"), url
    web.should_exit = True
    thread.join()


@pytest.mark.filterwarnings("ignore")  # of a server that is not ours
async def test_a_server_of_the_operators(
    serve: Serve, script: Script, mcp_server: tuple[str, str]
) -> None:
    script.says = [
        '<call weather {"city": "Vienna"}>',
        '<call weather {"city": "Atlantis"}>',
        "It rains.",
    ]
    named, url = mcp_server
    tool = {**DEMO, "server_label": "w", "server_url": url}
    async with serve(tool_server=f"demo,{named}") as client:
        body = await ask(client, tools=[tool])
    listed, first, second, _ = body["output"]
    assert listed["tools"][0]["input_schema"]["required"] == ["city"]
    assert (first["server_label"], first["output"]) == ("w", "It rains in Vienna.")
    assert second["status"] == "failed"
    assert text_of(body) == "It rains."


async def test_a_server_that_does_not_answer(serve: Serve, script: Script) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        async with serve(tool_server=address) as client:
            error = (await ask(client, 503, tools=[{**DEMO, "server_label": address}]))["error"]
    assert error["param"] == "tools"
    assert "cannot be reached" in error["message"]
