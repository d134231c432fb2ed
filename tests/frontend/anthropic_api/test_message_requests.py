"""Messages requests as the chat requests that they become."""

from typing import Any

import pytest

from headrace.frontend.anthropic_api.chat_request import chat_fields, rename_error_fields
from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.messages import CountTokensRequest, MessagesRequest

TOOLS = [
    {"name": "weather", "description": "Tells it.", "input_schema": {"properties": {}}},
    {"type": "custom", "name": "time", "input_schema": {"type": "object"}, "strict": True},
]


def fields(messages: list[dict[str, Any]] | str = "Hi", **others: Any) -> dict[str, Any]:
    if isinstance(messages, str):
        messages = [user(messages)]
    body = {"model": "smol", "max_tokens": 9, "messages": messages, **others}
    return chat_fields(MessagesRequest.model_validate(body))


def user(*content: list[dict[str, Any]] | str) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if content[0:1] == content else list(content)}


def assistant(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def text(words: str, **others: Any) -> dict[str, str]:
    return {"type": "text", "text": words, **others}


CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}


def test_the_system_prompt_goes_first() -> None:
    system = [text("x-anthropic-billing-header: cc=1;"), text("Be brief."), text("Be kind.")]
    messages = [{"role": "system", "content": "Now."}, user("Hi")]
    assert fields(messages, system=system)["messages"] == [
        {"role": "system", "content": "Be brief.\nBe kind.\nNow."},
        {"role": "user", "content": "Hi"},
    ]
    assert fields(system="Be brief.")["messages"][0]["content"] == "Be brief."
    assert [message["role"] for message in fields(system=[])["messages"]] == ["user"]


def test_a_tool_is_called_and_answers() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    messages = [
        user("Weather?"),
        assistant(thought, hidden, text("Let me see."), CALL),
        user([text("Be quick."), RESULT, {**RESULT, "tool_use_id": "b", "content": [text("!")]}]),
        assistant(CALL),
        user([{**RESULT, "is_error": True}]),
    ]
    call = {
        "id": "toolu_1",
        "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Paris"}},
    }
    assert fields(messages)["messages"] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning": "Hm.",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Rain."},
        {"role": "tool", "tool_call_id": "b", "content": "!"},
        {"role": "user", "content": "Be quick."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Rain."},
    ]


def test_messages_of_one_role_are_one_turn_and_the_system_speaks_in_the_users() -> None:
    messages = [
        user("a"),
        user("b"),
        {"role": "system", "content": "c"},
        assistant(text("d")),
        {"role": "system", "content": "e"},
        user("f"),
    ]
    assert fields(messages)["messages"] == [
        {"role": "user", "content": "a\nb\nc"},
        {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e\nf"},
    ]


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (user([text("x"), CALL]), "messages.1.content.1"),
        (assistant(RESULT), "messages.1.content.0"),
        ({"role": "system", "content": [RESULT]}, "messages.1.content.0"),
    ],
)
def test_blocks_that_their_author_cannot_say_are_refused(
    message: dict[str, Any], where: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        fields([user("Hi"), message])
    assert caught.value.message.startswith(where)


@pytest.mark.parametrize(
    ("last", "continues"),
    [
        (assistant(text("So")), True),
        (assistant(text("So"), CALL), False),
        (assistant(CALL), False),
        (assistant(text("")), False),
        (user("Hi"), False),
    ],
)
def test_a_begun_answer_is_continued(last: dict[str, Any], continues: bool) -> None:
    made = fields([user("Hi"), last])
    assert made.get("continue_final_message", False) is continues
    assert made.get("add_generation_prompt", True) is not continues


def test_tools_are_functions() -> None:
    made = fields(tools=TOOLS)
    assert made["tool_choice"] == "auto"
    assert "parallel_tool_calls" not in made
    assert made["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Tells it.",
                "parameters": {"type": "object", "properties": {}},
            },
        },
        {
            "type": "function",
            "function": {"name": "time", "parameters": {"type": "object"}, "strict": True},
        },
    ]
    assert not {"tools", "tool_choice"} & set(fields())


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        (
            {"type": "tool", "name": "time"},
            {"type": "function", "function": {"name": "time"}},
        ),
    ],
)
def test_tool_choice(choice: dict[str, str], made: dict[str, Any] | str) -> None:
    assert fields(tools=TOOLS, tool_choice=choice)["tool_choice"] == made
    serial = {**choice, "disable_parallel_tool_use": True}
    assert fields(tools=TOOLS, tool_choice=serial)["parallel_tool_calls"] is False


def change(kind: str, **tool: Any) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": f"tool_{kind}", "tool": tool}]}


@pytest.mark.parametrize(
    ("changes", "offered"),
    [
        ([change("removal", type="tool_reference", name="time")], ["weather"]),
        (
            [
                change("removal", type="tool_reference", name="weather"),
                change("addition", type="tool_reference", name="weather"),
            ],
            ["time", "weather"],
        ),
        (
            [
                change(
                    "addition",
                    type="tool_definition",
                    definition={"name": "new", "input_schema": {"type": "object"}},
                )
            ],
            ["weather", "time", "new"],
        ),
        ([change("addition", type="tool_reference", name="bash")], ["weather", "time"]),
    ],
)
def test_tools_change_in_the_middle(changes: list[dict[str, Any]], offered: list[str]) -> None:
    typed = {"type": "bash_20250124", "name": "bash"}
    made = fields([user("Hi"), *changes, user("Ho")], tools=[*TOOLS, typed])
    assert [tool["function"]["name"] for tool in made["tools"]] == offered
    assert made["messages"] == [{"role": "user", "content": "Hi\nHo"}]


@pytest.mark.parametrize(
    "message",
    [
        change("removal", type="tool_reference", name="other"),
        change("addition", type="tool_reference"),
        {**change("removal", type="tool_reference", name="time"), "role": "user"},
    ],
)
def test_changes_of_tools_that_cannot_be(message: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"^messages"):
        fields([user("Hi"), message], tools=TOOLS)


@pytest.mark.parametrize("name", ["other", None])
def test_the_tool_that_is_chosen_must_be_there(name: str | None) -> None:
    with pytest.raises(BadRequest, match=r"^tool_choice\.name"):
        fields(tools=TOOLS, tool_choice={"type": "tool", "name": name})


def test_thinking() -> None:
    assert fields()["chat_template_kwargs"] is None
    off = fields(thinking={"type": "disabled"})
    assert off["chat_template_kwargs"] == {"enable_thinking": False}
    on = fields(thinking={"type": "enabled", "budget_tokens": 1024, "display": "omitted"})
    assert on["chat_template_kwargs"] == {"enable_thinking": True}
    assert (on["thinking_token_budget"], on["include_reasoning"]) == (1024, False)
    assert fields(thinking={"type": "adaptive"})["chat_template_kwargs"] is None
    own = fields(thinking={"type": "disabled"}, chat_template_kwargs={"enable_thinking": True})
    assert own["chat_template_kwargs"] == {"enable_thinking": True}


def test_output_config() -> None:
    schema = {"type": "object"}
    made = fields(
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    )
    assert made["reasoning_effort"] == "low"
    assert made["response_format"]["type"] == "json_schema"
    assert made["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("effort", "read"),
    [("minimal", "minimal"), ("none", "none"), ("disable", "none"), ("default", None)],
)
def test_words_of_gateways_for_efforts(effort: str, read: str | None) -> None:
    assert fields(output_config={"effort": effort}).get("reasoning_effort") == read


def test_what_is_counted_is_what_the_prompt_hangs_on() -> None:
    body = {
        "model": "smol",
        "messages": [user("Hi")],
        "system": "Be brief.",
        "tools": TOOLS,
        "tool_choice": {"type": "any"},
        "thinking": {"type": "disabled"},
        "output_config": {"effort": "high"},
    }
    counted = chat_fields(CountTokensRequest.model_validate(body))
    answered = chat_fields(MessagesRequest.model_validate({**body, "max_tokens": 5}))
    assert counted.items() <= answered.items()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("thinking_token_budget: is not", "thinking.budget_tokens: is not"),
        ("body.response_format.type: x", "output_config.format.type: x"),
        ("stop needs", "stop_sequences needs"),
        ("body.tools.0.function.name: x", "tools.0.name: x"),
        ("tools.0.function.parameters.type: x", "tools.0.input_schema.type: x"),
        ("body.max_tokens: x", "body.max_tokens: x"),
        ("stops: x", "stops: x"),
        ("The prompt has", "The prompt has"),
    ],
)
def test_errors_name_the_fields_of_messages(message: str, shown: str) -> None:
    with pytest.raises(BadRequest) as caught, rename_error_fields():
        raise BadRequest(message)
    assert caught.value.message == shown
