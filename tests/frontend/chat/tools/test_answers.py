"""Calls in the answers of the server, whole and streamed, by each API."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.chat.test_tools import MESSAGES, PATH, Served

F = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string"}, "n": {"type": "integer"}},
        },
    },
}
ANTHROPIC_F = {"name": "f", "input_schema": F["function"]["parameters"]}  # type: ignore[index]


def hermes(arguments: str) -> str:
    return f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'


CASES = [
    ("hermes", hermes('{"a": "x\ny\tz"}'), [{"a": "x\ny\tz"}]),
    ("hermes", hermes('"{\\"a\\": \\"x\\"}"'), [{"a": "x"}]),
    ("hermes", hermes("null"), [{}]),
    ("hermes", hermes('{"a": "x"}}'), [{"a": "x"}]),
    ("hermes", hermes('{"a": "x"}') * 2, [{"a": "x"}] * 2),
    (
        "llama3_json",
        '{"name": "f", "parameters": {"n": 1}};{"name": "f", "parameters": {}}',
        [{"n": 1}, {}],
    ),
    ("llama3_json", '[{"name": "f", "arguments": {"n": 1}}]', [{"n": 1}]),
    (
        "qwen3_coder",
        "<tool_call>\n<function=f>\n<parameter=a>\n5\n</parameter>\n<parameter=n>\n5\n</parameter>\n"
        "</function>\n</tool_call>",
        [{"a": "5", "n": 5}],
    ),
    (
        "glm45",
        "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>7</arg_value>\n</tool_call>",
        [{"n": 7}],
    ),
]


@pytest.fixture(params=CASES, ids=range(len(CASES)))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Served, list[Any]]:
    spec, text, calls = request.param
    served = Served(tmp_path, tool_call_parser=spec)
    served.says = text
    return served, calls


def events(body: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def test_a_chat_holds_the_calls_alone(case: tuple[Served, list[Any]]) -> None:
    served, calls = case
    for options in ({}, {"stream": True}):
        response = await served.client.post(
            PATH, json={"messages": MESSAGES, "tools": [F], **options}
        )
        body = await response.get_data(as_text=True)
        assert response.status_code == 200, body
        if options:
            deltas = [e["choices"][0] for e in events(body) if e["choices"]]
            content = "".join(d["delta"].get("content") or "" for d in deltas)
            arguments = [""] * len(calls)
            for delta in deltas:
                for call in delta["delta"].get("tool_calls") or []:
                    arguments[call["index"]] += call["function"].get("arguments") or ""
            reason = deltas[-1]["finish_reason"]
        else:
            choice = json.loads(body)["choices"][0]
            content, reason = choice["message"]["content"] or "", choice["finish_reason"]
            arguments = [c["function"]["arguments"] for c in choice["message"]["tool_calls"]]
        assert (content, reason) == ("", "tool_calls")
        assert [json.loads(one) for one in arguments] == calls


async def test_a_message_has_the_input_whole_and_streamed(case: tuple[Served, list[Any]]) -> None:
    served, calls = case
    request = {"model": "smol", "max_tokens": 500, "messages": MESSAGES, "tools": [ANTHROPIC_F]}
    response = await served.client.post("/v1/messages", json=request)
    body = await response.get_json()
    assert [(block["type"], block["input"]) for block in body["content"]] == [
        ("tool_use", call) for call in calls
    ]
    response = await served.client.post("/v1/messages", json={**request, "stream": True})
    texts: dict[int, str] = {}
    for event in events(await response.get_data(as_text=True)):
        if event["type"] == "content_block_start":
            assert event["content_block"]["type"] == "tool_use"
            texts[event["index"]] = ""
        elif event["type"] == "content_block_delta":
            texts[event["index"]] += event["delta"]["partial_json"]
    assert [json.loads(text or "{}") for text in texts.values()] == calls
