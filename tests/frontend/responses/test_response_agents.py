"""A session of a coding agent, in the shapes that Codex 0.171 sends: all in one stream each."""

import json
from typing import Any

from quart.typing import TestClientProtocol as Client

from tests.frontend.responses.response_asking import PATH, Event, events_of
from tests.frontend.responses.response_script import Script

OBJECT: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
SHARED: dict[str, Any] = {
    "stream": True,
    "store": False,
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a2-thread",
    "client_metadata": {"thread_id": "01a2-thread", "x-codex-turn-metadata": "{}"},
}
MESSAGES: list[dict[str, Any]] = [
    {
        "type": "message",
        "id": f"msg_{number}",
        "role": role,
        "content": [{"type": "input_text", "text": text} for text in texts],
    }
    for number, (role, texts) in enumerate(
        [
            ("developer", ["You write programs."]),
            ("developer", ["Use your skills.", "Files may be read."]),
            ("user", ["The folder is /w."]),
            ("user", ["List it."]),
        ]
    )
]
# Of one model all tools are in `tools`, of another in an item.
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "exec_command", "strict": False, "parameters": OBJECT},
    {
        "type": "custom",
        "name": "apply_patch",
        "description": "Changes files.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: /(.|\\n)+/"},
    },
    {
        "type": "namespace",
        "name": "agents",
        "description": "Others.",
        "tools": [{"type": "function", "name": "close", "strict": False, "parameters": OBJECT}],
    },
    {"type": "tool_search", "execution": "client", "description": "Finds.", "parameters": OBJECT},
    {"type": "web_search", "external_web_access": False},
]
ADDITIONAL: dict[str, Any] = {
    "type": "additional_tools",
    "id": "at_1",
    "role": "developer",
    "tools": [{"type": "namespace", "name": "functions", "description": "", "tools": TOOLS[:2]}],
}


async def turn(client: Client, **body: Any) -> tuple[list[Event], str]:
    answer = await client.post(PATH, json={**SHARED, **body})
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    ignored = answer.headers.get("X-Headrace-Ignored-Fields", "")
    return events_of(await answer.get_data(as_text=True)), ignored


async def test_a_session_with_each_kind_of_call(client: Client, script: Script) -> None:
    script.says = [
        '<think>I look.</think><call exec_command {"cmd": "ls"}>',
        '<call apply_patch {"input": "*** Begin\\n*** End"}>',
        '<call agents__close {"target": "x"}>',
        '<call tool_search {"query": "y"}>',
        "Done.",
    ]
    outputs: list[dict[str, Any]] = [
        {"type": "function_call_output", "id": "fco_1", "output": "a.txt"},
        {"type": "custom_tool_call_output", "id": "ctco_1", "output": "Success."},
        {"type": "function_call_output", "id": "fco_2", "output": "no such agent"},
        {
            "type": "tool_search_output",
            "id": "tso_1",
            "status": "completed",
            "execution": "client",
            "tools": [{"type": "namespace", "name": "late", "tools": TOOLS[:1]}],
        },
    ]
    said, types = list(MESSAGES), []
    for output in [*outputs, None]:
        events, ignored = await turn(
            client, input=said, tools=TOOLS, reasoning={"effort": "medium"}
        )
        assert ignored == "tools.format, tools.web_search"
        assert events[-1].kind == "completed"
        # The agent takes items from these events, and sends them back without a reasoning's text.
        done = [event.data["item"] for event in events if event.kind == "output_item.done"]
        said += [
            {**item, "content": None} if item["type"] == "reasoning" else item for item in done
        ]
        types += [item["type"] for item in done]
        if output is not None:
            said.append({**output, "call_id": done[-1]["call_id"]})
    assert types == [
        "reasoning",
        "function_call",
        "custom_tool_call",
        "function_call",
        "tool_search_call",
        "message",
    ]
    last = script.chats[-1]
    assert "late__exec_command" in [tool["function"]["name"] for tool in last["tools"]]
    system, *_, first, ls, patch, patched, close, _, search, _ = last["messages"]
    assert system["content"] == "You write programs.\n\nUse your skills.\nFiles may be read."
    assert (first["reasoning"], ls["content"]) == ("I look.", "a.txt")
    calls = [message["tool_calls"][0]["function"] for message in (first, patch, close, search)]
    assert [call["name"] for call in calls] == [
        "exec_command",
        "apply_patch",
        "agents__close",
        "tool_search",
    ]
    assert json.loads(calls[1]["arguments"]) == {"input": "*** Begin\n*** End"}
    assert patched["content"] == "Success."


async def test_a_session_whose_tools_are_in_an_item(client: Client, script: Script) -> None:
    script.says = ['<call functions__apply_patch {"input": "x"}>', "Done."]
    events, ignored = await turn(
        client,
        input=[ADDITIONAL, *MESSAGES],
        reasoning={"effort": "low", "context": "all_turns"},
        text={"verbosity": "low"},
    )
    assert ignored == "reasoning.context, tools.format"
    (call,) = events[-1].data["response"]["output"]
    assert (call["type"], call["namespace"], call["name"]) == (
        "custom_tool_call",
        "functions",
        "apply_patch",
    )
    assert events[-1].data["response"]["tool_choice"] == "auto"
    parts = [{"type": "input_text", "text": text} for text in ("ok: ", "42")]
    output = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": parts}
    await turn(client, input=[ADDITIONAL, *MESSAGES, call, output])
    assert script.chats[-1]["messages"][-1]["content"] == "ok: 42"
