"""Items to messages."""

from typing import Any

import pytest

from headrace.frontend.errors import ApiError
from headrace.frontend.responses.request.conversation import chat_messages
from headrace.frontend.responses.request.input_items import read_items

ID = "resp_" + "0" * 32


def messages(*items: dict[str, Any], instructions: str | None = None) -> list[dict[str, Any]]:
    return chat_messages(instructions, read_items(list(items), ID, {}).items)


def call(number: int, **fields: Any) -> dict[str, str | None]:
    return {
        "type": "function_call",
        "call_id": f"c{number}",
        "name": "f",
        "arguments": "{}",
        **fields,
    }


def output(number: int, said: Any = "done") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": said}


def test_leading_system_messages_are_one() -> None:
    chat = messages(
        {"role": "developer", "content": "b"},
        {"role": "system", "content": [{"type": "input_text", "text": "c"}]},
        {"role": "user", "content": "d"},
        {"role": "developer", "content": "e"},
        instructions="a",
    )
    assert chat == [
        {"role": "system", "content": "a\n\nb\n\nc"},
        {"role": "user", "content": "d"},
        {"role": "system", "content": "e"},
    ]


def test_calls_of_one_turn_are_one_message() -> None:
    chat = messages(
        {"role": "user", "content": "x"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        call(1),
        call(2),
        output(2, [{"type": "input_text", "text": "two"}]),
        output(1),
        {"role": "assistant", "content": "so"},
        call(3),
    )
    roles = [message["role"] for message in chat]
    assert roles == ["user", "assistant", "tool", "tool", "assistant"]
    assert chat[1]["reasoning"] == "hm"
    assert [each["id"] for each in chat[1]["tool_calls"]] == ["c1", "c2"]
    assert (chat[2]["tool_call_id"], chat[2]["content"]) == ("c2", "two")
    assert chat[4]["content"] == "so"
    assert chat[4]["tool_calls"][0]["id"] == "c3"


def test_two_answers_in_a_row_stay_two() -> None:
    said = [{"role": "assistant", "content": text} for text in "ab"]
    assert [message["content"] for message in messages(*said)] == ["a", "b"]


def test_a_call_that_a_server_has_run_is_a_call_and_its_result() -> None:
    chat = messages(
        {
            "type": "mcp_call",
            "id": "mcp_1",
            "server_label": "s",
            "name": "f",
            "arguments": "{}",
            "output": None,
            "error": {"type": "mcp_tool_execution_error", "content": "broken"},
        },
        {"type": "mcp_list_tools", "server_label": "s", "tools": []},
    )
    assert [message["role"] for message in chat] == ["assistant", "tool"]
    assert chat[1]["content"] == "Error: broken"


def test_refusals_are_text() -> None:
    part = {"type": "refusal", "refusal": "no"}
    assert messages({"role": "assistant", "content": [part]})[0]["content"] == "no"


def test_an_output_without_its_call_is_read() -> None:
    """Clients shorten long conversations."""
    chat = messages(output(1), {"role": "user", "content": "x"}, call(2))
    assert chat[0] == {"role": "tool", "tool_call_id": "c1", "content": "done"}
    assert [message["role"] for message in chat] == ["tool", "user", "assistant"]


def test_items_have_ids_of_their_own() -> None:
    items = read_items([{"role": "user", "content": "x"}, call(1, id="mine")], ID, {}).items
    assert items[1]["id"] == "mine"
    assert items[0]["id"].startswith("msg_")


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": ["x"] * 10_001},
        call(1, call_id="x" * 300),
        call(1, name=""),
        {"type": "reasoning", "summary": ["x"]},
        {"type": 5, "role": "user", "content": "x"},
        {"id": "x", "type": None},
        {},
    ],
)
def test_what_is_no_item(item: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        messages(item)
    assert caught.value.param is not None
    assert caught.value.param.removeprefix("body.").startswith("input.0")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, "Error: the call has failed"),
        ("no way", "Error: no way"),
        ({"type": "mcp_tool_execution_error", "content": "no way"}, "Error: no way"),
        ({"type": "http_error", "code": 500, "message": "no way"}, "Error: no way"),
        ({"content": [{"type": "text", "text": "no way"}]}, "Error: no way"),
    ],
)
def test_errors_of_calls_come_in_many_forms(error: dict[str, Any] | None, text: str) -> None:
    item = {"type": "mcp_call", "id": "i", "server_label": "s", "name": "n", "arguments": "{}"}
    assert messages({**item, "error": error})[1]["content"] == text


@pytest.mark.parametrize("error", [5, True, {}, {"content": 5}, [5], {"content": [[]]}])
def test_errors_that_say_nothing_are_refused(error: dict[str, Any] | int) -> None:
    item = {"type": "mcp_call", "id": "i", "server_label": "s", "name": "n", "arguments": "{}"}
    with pytest.raises(ApiError, match=r"^body\.input\.0\.error"):
        messages({**item, "error": error})


@pytest.mark.parametrize("arguments", ['{"city', "Paris", "[1]", "[" * 100_000])
def test_arguments_go_to_the_chat_as_they_are(arguments: str) -> None:
    """Rendering a chat repairs them, whichever API they came by."""
    chat = messages(call(1, arguments=arguments))
    assert chat[0]["tool_calls"][0]["function"]["arguments"] == arguments
