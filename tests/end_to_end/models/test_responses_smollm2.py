"""Responses on a real model, by the real client: formats, functions, and tools that the server
runs. Grammars make even a small model call them."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from tests.end_to_end.servers import Server, wait_for

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
DEMO: Any = {
    "type": "mcp",
    "server_label": "demo",
    "require_approval": "never",
    "allowed_tools": ["current_time"],
}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def client(smol_pool: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{smol_pool.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def call_of(response: Any) -> ResponseFunctionToolCall:
    calls = [item for item in response.output if item.type == "function_call"]
    call: ResponseFunctionToolCall
    (call,) = calls
    return call


def test_a_form_is_filled(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "smol",
        "input": "Make up a person.",
        "text_format": Person,
        "temperature": 0,
        "max_output_tokens": 80,
    }
    whole = client.responses.parse(**asked)
    with client.responses.stream(**asked) as stream:
        streamed = stream.get_final_response()
    assert isinstance(whole.output_parsed, Person)
    assert streamed.output_parsed == whole.output_parsed
    assert streamed.output_text == whole.output_text


def test_a_function_is_called_and_its_result_is_taken(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "smol",
        "input": "What is the weather in Rome?",
        "tools": [WEATHER],
        "tool_choice": "required",
        "temperature": 0,
        "max_output_tokens": 80,
    }
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        deltas = "".join(
            event.delta
            for event in stream
            if event.type == "response.function_call_arguments.delta"
        )
        streamed = stream.get_final_response()
    call = call_of(whole)
    assert call.arguments == call_of(streamed).arguments == deltas
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "It snows."}
    answer = client.responses.create(
        model="smol",
        previous_response_id=whole.id,
        input=[result],
        tools=[WEATHER],
        tool_choice="none",
        temperature=0,
        max_output_tokens=30,
    )
    assert answer.output_text


def test_the_server_runs_a_tool_in_the_background(client: OpenAI) -> None:
    response = client.responses.create(
        model="smol",
        input="What time is it?",
        tools=[DEMO],
        tool_choice="required",
        background=True,
        temperature=0,
        max_output_tokens=120,
    )
    ended = ("completed", "incomplete", "failed")
    wait_for(lambda: client.responses.retrieve(response.id).status in ended, "it has ended", 60)
    done = client.responses.retrieve(response.id)
    listed, call = done.output[:2]
    assert listed.type == "mcp_list_tools"
    assert call.type == "mcp_call"
    if call.output is not None:  # the model may have named a zone that there is not
        assert datetime.fromisoformat(call.output).tzinfo is not None
    assert done.output[-1].type == "message"
    events = list(client.responses.retrieve(response.id, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_a_form_that_is_none_names_its_field(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "name": "x", "schema": {"type": "nope"}}
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(model="smol", input="x", text={"format": form})
    assert caught.value.param == "text.format"
