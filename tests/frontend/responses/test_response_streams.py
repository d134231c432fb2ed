"""The events of a response, as they are and as the `openai` client takes them."""

import itertools
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from quart.typing import TestClientProtocol as Client

from headrace.frontend.pool.interface import RequestLost
from tests.frontend.asgi import Exchange, post
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.responses.response_asking import (
    PATH,
    Event,
    ask,
    events_of,
    follow,
    get,
    stream,
)
from tests.frontend.responses.response_script import Script

FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object"}}


def kinds(events: list[Event]) -> list[str]:
    """The kinds of events, each once where several follow each other."""
    return [kind for kind, _ in itertools.groupby(event.kind for event in events)]


async def test_the_events_of_a_text(client: Client) -> None:
    events = await stream(client)
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.data["sequence_number"] for event in events] == list(range(len(events)))
    text = "".join(event.data.get("delta", "") for event in events)
    assert events[-1].data["response"]["output"][0]["content"][0]["text"] == text
    assert events[0].data["response"]["status"] == "in_progress"
    assert {type(event.data["response"]["created_at"]) for event in (events[0], events[-1])} == {
        int
    }


async def test_streamed_and_whole_say_the_same(client: Client) -> None:
    fields: dict[str, Any] = {
        "seed": 5,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
    }
    events = await stream(client, **fields)
    whole = await ask(client, **fields)
    streamed = events[-1].data["response"]
    assert streamed["usage"] == whole["usage"]
    assert streamed["output"][0]["content"] == whole["output"][0]["content"]
    deltas = [event.data for event in events if event.kind == "output_text.delta"]
    logprobs = [at for delta in deltas for at in delta["logprobs"]]
    assert logprobs == whole["output"][0]["content"][0]["logprobs"][: len(logprobs)]
    assert len(logprobs) > 5


async def test_a_cut_stream_ends_as_incomplete(client: Client) -> None:
    events = await stream(client, max_output_tokens=3)
    assert events[-1].kind == "incomplete"
    assert events[-1].data["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_reasoning_content_and_calls_are_items(client: Client, script: Script) -> None:
    script.says = ['<think>Let me see.</think>I look.<call look {"at": 1}><call look {"at": 2}>']
    events = await stream(client, tools=[FUNCTION])
    reasoning, message, first, second = events[-1].data["response"]["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert message["content"][0]["text"] == "I look."
    assert (first["name"], first["arguments"]) == ("look", '{"at": 1}')
    assert (second["name"], second["arguments"]) == ("look", '{"at": 2}')
    assert first["call_id"] != second["call_id"]
    for index, item in enumerate((reasoning, message, first, second)):
        of_item = [event for event in events if event.data.get("output_index") == index]
        assert of_item[0].kind == "output_item.added"
        assert of_item[0].data["item"]["id"] == item["id"]
        assert of_item[0].data["item"]["status"] == "in_progress"
        assert of_item[-1].kind == "output_item.done"
        assert of_item[-1].data["item"] == item
        deltas = "".join(event.data.get("delta", "") for event in of_item)
        assert deltas in ("Let me see.", "I look.", '{"at": 1}', '{"at": 2}')
    assert "reasoning_text.done" in kinds(events)
    assert "function_call_arguments.done" in kinds(events)
    usage = events[-1].data["response"]["usage"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == 3


async def test_reasoning_is_sealed_for_clients_that_send_nothing_else_of_it(
    client: Client, script: Script
) -> None:
    script.says = ["<think>Hm.</think>So.", "Yes."]
    include = ["reasoning.encrypted_content"]
    body = await ask(client, include=include)
    reasoning, message = body["output"]
    assert reasoning["content"][0]["text"] == "Hm."
    events = await follow(client, body["id"])
    assert [event.data["item"] for event in events if event.kind == "output_item.done"] == (
        body["output"]
    )
    sent = {**reasoning, "content": None}
    await ask(client, input=[sent, message, {"role": "user", "content": "Sure?"}], store=False)
    assert script.chats[-1]["messages"][0]["reasoning"] == "Hm."


async def test_a_turn_of_reasoning_and_calls_is_one_message_of_the_next_chat(
    client: Client, script: Script
) -> None:
    script.says = ['<think>Hm.</think>I look.<call look {"at": 1}>', "It is a cat."]
    first = await ask(client, tools=[FUNCTION])
    call = first["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "a cat"}
    await ask(client, input=[output], previous_response_id=first["id"])
    user, assistant, tool = script.chats[-1]["messages"]
    assert user == {"role": "user", "content": "Hello"}
    assert (assistant["reasoning"], assistant["content"]) == ("Hm.", "I look.")
    assert assistant["tool_calls"][0]["id"] == call["call_id"]
    assert tool == {"role": "tool", "tool_call_id": call["call_id"], "content": "a cat"}


async def test_what_of_tools_and_formats_reaches_the_chat(client: Client, script: Script) -> None:
    script.says = ["1", "2", "3"]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "name": "thing", "schema": schema, "strict": True}
    body = await ask(client, tools=[FUNCTION], tool_choice={"type": "function", "name": "look"})
    assert body["tool_choice"] == {"type": "function", "name": "look"}
    chat = script.chats[-1]
    assert chat["tools"] == [
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    ]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    await ask(client, text={"format": named}, reasoning={"effort": "low", "summary": "auto"})
    assert script.chats[-1]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "thing", "schema": schema, "strict": True},
    }
    assert script.chats[-1]["reasoning_effort"] == "low"
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [FUNCTION]}
    other = {**FUNCTION, "name": "touch"}
    await ask(client, tools=[FUNCTION, other], tool_choice=allowed)
    assert script.chats[-1]["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in script.chats[-1]["tools"]] == ["look"]


@pytest.mark.parametrize(
    ("reasoning", "shown"),
    [
        ({"effort": "default"}, {"effort": None}),
        ({"effort": "disable"}, {"effort": "none"}),
        ({"effort": "xhigh", "summary": "none"}, {"effort": "xhigh", "summary": None}),
        ({"effort": None, "context": "all_turns"}, {"effort": None}),
    ],
)
async def test_words_of_clients_for_efforts_can_be_shown(
    client: Client, reasoning: dict[str, str], shown: dict[str, str]
) -> None:
    events = await stream(client, reasoning=reasoning)
    assert events[-1].data["response"]["reasoning"] == shown


async def test_a_failure_on_the_way_is_told_as_an_event(client: Client, pool: FakePool) -> None:
    pool.failure, pool.fail_after = RequestLost("the workers that ran it have failed"), 3
    events = await stream(client)
    assert events[-1].kind == "failed"
    response = events[-1].data["response"]
    assert response["error"] == {
        "code": "server_error",
        "message": "the workers that ran it have failed",
    }
    assert (await get(client, response["id"]))["status"] == "failed"
    items = [event.data["item"] for event in events if event.kind == "output_item.done"]
    assert items == response["output"]


async def test_a_client_that_leaves_frees_its_slot(make_app: MAKE_APP, pool: FakePool) -> None:
    pool.hold_after = 3
    app = make_app()
    async with app.test_app():
        exchange: Exchange = post(app, PATH, {"input": "Hello", "stream": True})
        await exchange.wait_for_chunks(2)
        response_id = events_of(b"".join(exchange.chunks).decode())[0].data["response"]["id"]
        await exchange.disconnect()
        assert pool.streams[0].cancelled
        client = app.test_client()
        for _ in range(200):
            if (await get(client, response_id))["status"] == "cancelled":
                break
        assert (await get(client, response_id))["status"] == "cancelled"


class Thing(BaseModel):
    a: int


async def test_the_clients_helper_follows_a_stream(
    openai_client: AsyncOpenAI, script: Script
) -> None:
    script.says = ['<think>Hm.</think>{"a": 3}<call look {"at": 1}>']
    tool: Any = {**FUNCTION, "strict": None}
    async with openai_client.responses.stream(
        model="smol", input="Hello", tools=[tool], text_format=Thing
    ) as events:
        kinds = [event.type async for event in events]
        final = await events.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert final.output_parsed == Thing(a=3)
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    sent = script.chats[0]["response_format"]["json_schema"]
    assert sent["schema"]["properties"]["a"]["type"] == "integer"


async def test_the_client_goes_on_with_a_stream(openai_client: AsyncOpenAI) -> None:
    stream = await openai_client.responses.create(
        model="smol", input="Hello", background=True, stream=True
    )
    response_id, seen = "", []
    async for event in stream:
        seen.append(event)
        if event.type == "response.created":
            response_id = event.response.id
    rest = await openai_client.responses.retrieve(response_id, stream=True, starting_after=4)
    assert [event async for event in rest] == seen[5:]
    assert seen[-1].type == "response.completed"
    items = [item async for item in openai_client.responses.input_items.list(response_id)]
    assert items[0].model_dump()["content"][0]["text"] == "Hello"
