"""Tools on a real model, by the real client: SmolLM2 calls nothing unless it is held to it, or told
what to say word by word."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from anthropic.types import Message, TextBlock, ToolUseBlock
from openai import OpenAI
from openai.types.chat import ChatCompletion

from tests.end_to_end.servers import Launch, Server

CITY = {"type": "string", "enum": ["Paris", "Rome"]}
DAYS = {"type": "integer", "minimum": 1, "maximum": 9}
QUESTION = [{"role": "user", "content": "What is the weather in Rome in the next 3 days?"}]
CALL = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "London", "days": 3}}\n</tool_call>'
)
DICTATED = [
    {"role": "user", "content": f"Say: {CALL}"},
    {"role": "assistant", "content": CALL},
    {"role": "user", "content": f"Say it again: {CALL}"},
]
PLUGIN = """
from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser

@register_tool_parser("all")
class All(ToolParser):
    def read(self, source, output):
        yield from source.peek()
        output.begin_call("f")
        yield from source.emit_rest(output.arguments)
"""


def tools(strict: bool | None = None) -> list[dict[str, Any]]:
    weather = {
        "type": "object",
        "properties": {"city": CITY, "days": DAYS},
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    functions: list[dict[str, Any]] = [
        {"name": "get_weather", "description": "Tells the weather.", "parameters": weather},
        {"name": "get_time"},
    ]
    marked = [{**function, "strict": strict} if strict else function for function in functions]
    return [{"type": "function", "function": function} for function in marked]


@pytest.fixture(scope="module")
def client(smol_pool: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{smol_pool.url}/v1", api_key="none") as client:
        yield client


Asked = tuple[str, str | None, list[tuple[str, str]]]


def both(client: OpenAI, messages: list[dict[str, str]], **fields: Any) -> tuple[Asked, Asked]:
    """Finish reason, content and calls: as one answer, and as the client puts a stream together."""
    fields |= {"model": "smol", "messages": messages, "max_tokens": 80, "temperature": 0}
    kinds = set()
    with ThreadPoolExecutor(1) as thread, client.chat.completions.stream(**fields) as stream:
        other = thread.submit(lambda: client.chat.completions.create(**fields))
        for event in stream:
            kinds.add(event.type)
        whole: ChatCompletion = other.result()
        streamed = stream.get_final_completion()
    answers: list[Asked] = []
    for completion in (whole, streamed):
        choice = completion.choices[0]
        calls = []
        for call in choice.message.tool_calls or []:
            assert call.type == "function"
            calls.append((call.function.name, call.function.arguments))
        answers.append((choice.finish_reason, choice.message.content or None, calls))
    assert ("tool_calls.function.arguments.done" in kinds) == bool(answers[0][2])
    return answers[0], answers[1]


def test_a_call_is_required(client: OpenAI) -> None:
    whole, streamed = both(client, QUESTION, tools=tools(), tool_choice="required")
    assert whole == streamed
    reason, content, calls = whole
    assert (reason, content) == ("tool_calls", None)
    for name, arguments in calls:
        given = json.loads(arguments)
        if name == "get_weather":
            assert given["city"] in CITY["enum"]
            assert 1 <= given["days"] <= 9
        else:
            assert (name, given) == ("get_time", {})


def test_a_function_is_named(client: OpenAI) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    whole, streamed = both(client, QUESTION, tools=tools(), tool_choice=named)
    assert whole == streamed
    reason, content, [(name, arguments)] = whole
    assert (reason, content, name) == ("stop", None, "get_weather")
    assert set(json.loads(arguments)) == {"city", "days"}


def test_the_model_need_not_call(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    whole, streamed = both(client, messages, tools=tools())
    assert whole == streamed
    assert whole[0] == "stop"
    assert whole[1]
    assert not whole[2]


def test_the_model_calls(client: OpenAI) -> None:
    whole, streamed = both(client, DICTATED, tools=tools())
    assert whole == streamed
    assert whole == ("tool_calls", None, [("get_weather", '{"city": "London", "days": 3}')])


def test_the_model_calls_and_is_held_to_the_schema(client: OpenAI) -> None:
    whole, streamed = both(client, DICTATED, tools=tools(strict=True))
    assert whole == streamed
    reason, content, [(name, arguments)] = whole
    assert (reason, content, name) == ("tool_calls", None, "get_weather")
    assert json.loads(arguments)["city"] in CITY["enum"]


def test_a_parser_of_the_operators_own(launch: Launch, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    server = launch(
        *["--frontends", "1", "--workers", "1", "--enable-auto-tool-choice"],
        *["--tool-call-parser", "all", "--tool-parser-plugin", str(plugin)],
    )
    body = {"messages": QUESTION, "max_tokens": 5, "tools": tools()}
    answer = server.client.post("/v1/chat/completions", json=body).raise_for_status().json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "f"
    assert call["function"]["arguments"]
    assert answer["choices"][0]["message"]["content"] is None


@pytest.fixture
def anthropic(client: OpenAI) -> Iterator[Anthropic]:
    url = str(client.base_url).removesuffix("/v1/")
    with Anthropic(base_url=url, api_key="none", max_retries=0) as anthropic:
        yield anthropic


WEATHER = tools()[0]["function"]
WEATHER_TOOL = {"name": WEATHER["name"], "input_schema": WEATHER["parameters"]}
ASKED: dict[str, Any] = {
    "model": "smol",
    "max_tokens": 80,
    "extra_body": {"temperature": 0},
    "messages": QUESTION,
}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"tools": [WEATHER_TOOL], "tool_choice": {"type": "any"}}, "tool_use"),
        (
            {"tools": [WEATHER_TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}},
            "tool_use",
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": WEATHER["parameters"]}}},
            "text",
        ),
    ],
    ids=["any", "tool", "form"],
)
def test_anthropics_client_has_what_it_demands(
    anthropic: Anthropic, fields: dict[str, Any], kind: str
) -> None:
    whole = anthropic.messages.create(**ASKED, **fields)
    with anthropic.messages.stream(**ASKED, **fields) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        first = message.content[0]
        assert first.type == kind
        if isinstance(first, ToolUseBlock):
            given = first.input
        else:
            assert isinstance(first, TextBlock)
            given = json.loads(first.text)
        assert set(given) == {"city", "days"}
        assert given["city"] in CITY["enum"]
        assert message.stop_reason == ("tool_use" if kind == "tool_use" else "end_turn")
    contents = [
        [block.model_dump(exclude={"id"}) for block in m.content] for m in (whole, streamed)
    ]
    assert contents[0] == contents[1]


def test_anthropics_client_gives_the_result_back(anthropic: Anthropic) -> None:
    asked = {**ASKED, "tools": [WEATHER_TOOL]}
    message: Message = anthropic.messages.create(**asked, tool_choice={"type": "any"})
    call = message.content[0]
    assert isinstance(call, ToolUseBlock)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}
    chat = [
        *QUESTION,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    asked |= {"messages": chat, "tool_choice": {"type": "none"}}
    answer: Message = anthropic.messages.create(**asked)
    assert [block.type for block in answer.content] == ["text"]
