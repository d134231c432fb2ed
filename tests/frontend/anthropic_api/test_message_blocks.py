"""Content blocks of a message in the making."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from headrace.frontend.anthropic_api.content_blocks import ContentBlockBuilder
from headrace.frontend.chat.message import MessagePart, ToolCallPart
from tests.frontend.chat.tagged_reader import TaggedReader


def made(parts: list[MessagePart]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The blocks as a whole answer shows them, and as a client reads them from the events."""
    blocks = ContentBlockBuilder()
    events = [event for part in parts for event in blocks.add(part)] + blocks.finish()
    read: list[dict[str, Any]] = []
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not is_open
            assert event["index"] == len(read)
            is_open = True
            read.append({**event["content_block"], "json": ""})
            continue
        assert is_open
        assert event["index"] == len(read) - 1
        if event["type"] == "content_block_stop":
            is_open = False
            continue
        for field, value in event["delta"].items():
            if field == "partial_json":
                read[-1]["json"] += value
            elif field != "type":
                read[-1][field] += value
    assert not is_open
    return blocks.content, read


def without(block: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name != field}


@settings(deadline=None)
@given(st.lists(st.sampled_from(["~r", "~c", "~t", "a", " ", "\n", "{}", "é"]), max_size=40))
def test_events_join_to_the_whole_and_lose_nothing(words: list[str]) -> None:
    said = "".join(words)
    reader = TaggedReader()
    parts = [reader.feed(char) for char in said]
    whole, read = made(parts)
    assert [without(block, "input") for block in whole] == [
        without(without(block, "json"), "input") for block in read
    ]
    thoughts = "".join(block["thinking"] for block in whole if block["type"] == "thinking")
    assert "".join(thoughts.split()) == "".join("".join(part.reasoning for part in parts).split())
    text = "".join(block["text"] for block in whole if block["type"] == "text")
    assert "".join(text.split()) == "".join("".join(part.content for part in parts).split())
    calls = [block["json"] for block in read if block["type"] == "tool_use"]
    names = [call for part in parts for call in part.tool_calls if call.name]
    assert len(calls) == len(names)
    arguments: list[str] = []
    for call in [call for part in parts for call in part.tool_calls]:
        arguments += [""] if call.name else []
        arguments[-1] += call.arguments
    assert len(calls) == len(arguments)
    for shown, written in zip(calls, arguments, strict=True):
        kept = shown.removeprefix('{"arguments": ')
        assert kept in (written, f"{written}}}") or not (shown or written.strip())
    blank = [kind for block in whole if not block.get(kind := block["type"], "call").strip()]
    answer = [kind for block in whole if (kind := block["type"]) != "thinking"]
    assert not blank or blank == answer == ["text"]


def test_the_rest_of_a_call_comes_before_text_that_came_with_it() -> None:
    begun = MessagePart(tool_calls=(ToolCallPart(0, "id", "f", '{"a":'),))
    rest = MessagePart(
        content="Done.",
        tool_calls=(ToolCallPart(0, None, None, " 1}"), ToolCallPart(1, "b", "g", "{}")),
    )
    whole, _ = made([begun, rest])
    assert [block["type"] for block in whole] == ["tool_use", "text", "tool_use"]
    assert whole[0]["input"] == {"a": 1}


@pytest.mark.parametrize("arguments", ["", "nonsense", '{"a": NaN}', '{"a":' * 10_000])
def test_arguments_that_are_no_json_are_empty(arguments: str) -> None:
    whole, _ = made([MessagePart(tool_calls=(ToolCallPart(0, "id", "f", arguments),))])
    assert whole[0]["input"] == {}


def test_numbers_beyond_all_floats_leave_the_body_valid() -> None:
    arguments = '{"a": 1e999, "b": [-1e999, {"c": 1.5}], "d": 12345678901234567890123}'
    whole, _ = made([MessagePart(tool_calls=(ToolCallPart(0, "id", "f", arguments),))])
    read = json.loads(json.dumps(whole[0]["input"], allow_nan=False))
    assert read == {
        "a": sys.float_info.max,
        "b": [-sys.float_info.max, {"c": 1.5}],
        "d": 12345678901234567890123,
    }


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("[1, 2]", {"arguments": [1, 2]}),
        (' "text"', {"arguments": "text"}),
        ("5", {"arguments": 5}),
        (' {"a": 1}', {"a": 1}),
        ("[1, 2", {"arguments": [1, 2]}),
        ("  ", {}),
    ],
)
def test_input_is_always_an_object_whole_and_streamed(
    arguments: str, shown: dict[str, Any]
) -> None:
    for size in (1, 100):
        pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        calls = [ToolCallPart(0, None, None, piece) for piece in pieces[1:]]
        first = ToolCallPart(0, "id", "f", pieces[0])
        parts = [MessagePart(tool_calls=(call,)) for call in (first, *calls)]
        whole, read = made([*parts, MessagePart(tool_calls=(ToolCallPart(1, "b", "g", ""),))])
        assert whole[0]["input"] == shown
        if whole[0]["input"]:
            assert from_json(read[0]["json"], allow_partial=True) == shown


def test_empty_thoughts_are_no_block() -> None:
    whole, _ = made([MessagePart(reasoning="\n"), MessagePart("So", reasoning="\n")])
    assert whole == [{"type": "text", "text": "So"}]
    whole, _ = made([MessagePart(reasoning="\n"), MessagePart(reasoning="a \n"), MessagePart("b")])
    assert [block.get("thinking") for block in whole] == ["\na \n", None]


@pytest.mark.parametrize("thought", ["", "a"])
def test_white_space_alone_is_text(thought: str) -> None:
    for size in (1, 3):
        said = "\n  "
        pieces = [MessagePart(said[start : start + size]) for start in range(0, 3, size)]
        thinking = [MessagePart(reasoning=thought)] if thought else []
        whole, read = made([*thinking, *pieces])
        assert whole[-1] == {"type": "text", "text": said}
        assert read[-1]["text"] == said
        assert len(whole) == 1 + len(thinking)


def test_white_space_beside_a_call_is_no_text() -> None:
    call = MessagePart(tool_calls=(ToolCallPart(0, "id", "f", "{}"),))
    whole, _ = made([MessagePart("\n"), call, MessagePart("\n")])
    assert [block["type"] for block in whole] == ["tool_use"]


def test_white_space_that_is_the_answer_is_a_block() -> None:
    space = [MessagePart(" \n"), MessagePart("\t")]
    assert made(space)[0] == [{"type": "text", "text": " \n\t"}]
    whole, _ = made([MessagePart(reasoning="So"), *space])
    assert [block["type"] for block in whole] == ["thinking", "text"]
    call = MessagePart(tool_calls=(ToolCallPart(0, "id", "f", "{}"),))
    for parts in ([*space, call], [call, *space]):
        assert [block["type"] for block in made(parts)[0]] == ["tool_use"]


def test_text_alone_keeps_its_spaces() -> None:
    said = "  a \n\n b\n "
    for size in (1, 2, 5, 100):
        pieces = [said[start : start + size] for start in range(0, len(said), size)]
        assert made([MessagePart(piece) for piece in pieces])[0] == [{"type": "text", "text": said}]
