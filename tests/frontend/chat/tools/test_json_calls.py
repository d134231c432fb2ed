"""Calls in JSON as models write them: with control characters, too many brackets, text around."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.json_repair import repaired_json
from headrace.frontend.chat.tools.reader import ToolCallReader
from tests.frontend.chat.tools.reading import read_both

F = ("f", '{"a": 1}')
G = ("g", '{"b": 2}')


def wrapped(call: str) -> dict[str, str]:
    """One JSON text as each format of JSON calls writes it."""
    return {
        "hermes": f"<tool_call>\n{call}\n</tool_call>",
        "granite4": f"<tool_call>{call}</tool_call>",
        "granite": f"<|tool_call|>{call}",
        "granite-20b-fc": f"<function_call> {call}",
        "longcat": f"<longcat_tool_call>{call}</longcat_tool_call>",
        "jamba": f"<tool_calls>{call}</tool_calls>",
        "hunyuan_a13b": f"<tool_calls>[{call}]</tool_calls>",
        "phi4_mini_json": f"functools[{call}]",
        "internlm": f"<|action_start|><|plugin|>\n{call}\n<|action_end|>",
        "ernie45": f"<tool_call>\n{call}\n</tool_call>",
        "gigachat3": f"<|function_call|>{call}",
        "xlam": f"```json\n[{call}]\n```",
        "mistral": f"[TOOL_CALLS][{call}]",
        "llama3_json": call,
        "qwen3_coder": f"<tool_call>\n{call}\n</tool_call>",
        "glm45": f"<tool_call>{call}</tool_call>",
        'generic:{"start": "<<", "end": ">>", "arguments": "arguments"}': f"<<{call}>>",
    }


def named(arguments: str) -> dict[str, str]:
    """The arguments of f as formats write them that have the name outside of the JSON."""
    return {
        "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
        f"<|tool_call_argument_begin|>{arguments}<|tool_call_end|><|tool_calls_section_end|>",
        "deepseek_v31": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{arguments}"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
        f"```json\n{arguments}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "mistral": f"[TOOL_CALLS]f[ARGS]{arguments}",
        "openai": "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
        f"{arguments}<|call|>",
        "plamo3": "<|plamo:begin_tool_requests:plamo|><|plamo:begin_tool_request:plamo|>"
        "<|plamo:begin_tool_name:plamo|>f<|plamo:end_tool_name:plamo|>"
        "<|plamo:begin_tool_arguments:plamo|><|plamo:constrain|>json<|plamo:msg|>"
        f"{arguments}<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>"
        "<|plamo:end_tool_requests:plamo|>",
    }


FORMATS, NAMED_FORMATS = list(wrapped("")), list(named(""))

ARGUMENTS = [
    ('{"a": "x\ny\tz"}', '{"a": "x\\ny\\tz"}'),
    ('{"a": "\x00\x1f"}', '{"a": "\\u0000\\u001f"}'),
    ('"{\\"a\\": \\"Os\\\\nlo\\"}"', '{"a": "Os\\nlo"}'),
    ('" {\\"a\\": {\\"b\\": [1]}} "', '{"a": {"b": [1]}}'),
    ('"{\\"a\\": 1"', '{"a": 1}'),
    ('""', "{}"),
    ("{\"a\": True, \"b\": None, 'c': 'it'}", '{"a": true, "b": null, "c": "it"}'),
    ('{"a": 1, "b": [1, 2,], }', '{"a": 1, "b": [1, 2] }'),
    ('{"a": "\\x \\d"}', '{"a": "\\\\x \\\\d"}'),
    ('{"a": "{[\\"\\\\"}', '{"a": "{[\\"\\\\"}'),
    ("{}", "{}"),
]


@pytest.mark.parametrize(("written", "arguments"), ARGUMENTS)
def test_arguments_become_a_valid_object(written: str, arguments: str) -> None:
    json.loads(arguments)
    for spec, text in wrapped(f'{{"name": "f", "arguments": {written}}}').items():
        assert read_both(spec, text) == ("", [("f", arguments)]), spec
    for spec, text in named(written).items():
        assert read_both(spec, text) == ("", [("f", arguments)]), spec


@pytest.mark.parametrize("nothing", ["null", "None", '"null"'])
def test_no_arguments_are_an_empty_object(nothing: str) -> None:
    for spec, text in wrapped(f'{{"name": "f", "arguments": {nothing}}}').items():
        assert read_both(spec, text) == ("", [("f", "{}")]), spec


def test_an_object_in_a_string_comes_while_it_is_written() -> None:
    reader = ToolCallReader(find_parser("hermes"))
    reader.feed('<tool_call>{"name": "f", "arguments": "{\\"a\\":')
    assert reader.feed(' \\"Pa').tool_calls[0].arguments == ' "Pa'
    assert reader.feed("r\\u00e9\\nx").tool_calls[0].arguments == "ré\\nx"


ONE = '{"name": "f", "arguments": {"a": 1}}'
TWO = '{"name": "g", "arguments": {"b": 2}}'
DAMAGED = [
    (f"{ONE}}}", [F]),
    (f"{ONE}}}}}", [F]),
    (ONE[:-1], [F]),
    (f"{ONE},", [F]),
    (f"[{ONE}", [F]),
    (f"{ONE}]", [F]),
    (f"{ONE} {TWO}", [F, G]),
    (f"{ONE}\n{TWO}", [F, G]),
    (f"{ONE}, {TWO}", [F, G]),
    (f"{ONE};{TWO};", [F, G]),
    (f"[{ONE}, {TWO}]", [F, G]),
    (f"[{ONE}, {TWO},]", [F, G]),
    (f"{ONE}}}{TWO}", [F, G]),
    (f"{ONE[:-1]}, {TWO}", [F, G]),
    ('{"name": "f", "arguments": {"a": 1},}', [F]),
    ('{"name": "f", "arguments": {"a": 1,}, "id": "x"}', [F]),
    ('{"arguments": {"a": 1}, "name": "f"}', [F]),
    ("{'name': 'f', 'arguments': {'a': 1}}", [F]),
    ('{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}', [F]),
    ('{"name": "f", "parameters": {"a": 1}}', [F]),
]


@pytest.mark.parametrize(("written", "calls"), DAMAGED)
def test_brackets_and_separators_leave_no_marks(written: str, calls: list[tuple[str, str]]) -> None:
    for spec, text in wrapped(written).items():
        if spec.startswith("generic") and "parameters" in written:
            continue
        assert read_both(spec, text) == ("", calls), spec


@pytest.mark.parametrize(
    "written", ['{"a": 1', '{"a": 1}}', '{"a": 1}}}', '{"a": 1,}', '{"a": 1}]']
)
def test_brackets_around_arguments_alone_leave_no_marks(written: str) -> None:
    for spec, text in named(written).items():
        if spec == "mistral" and written == '{"a": 1':
            continue  # it has no mark at the end of a call
        content, [(name, arguments)] = read_both(spec, text)
        assert (content, name, json.loads(arguments)) == ("", "f", {"a": 1}), spec


def test_tags_that_are_wrong_leave_no_marks() -> None:
    for text in (
        f"<tool_call>{ONE}</tool_call></tool_call>",
        f"<tool_call>\n<tool_call>\n{ONE}\n</tool_call>\n</tool_call>",
        f"<tool_call>{ONE}<tool_call>",
        f"<tool_call>\n```json\n{ONE}\n```\n</tool_call>",
        f"<tool_call>{ONE}<tool_call>\n</tool_call>",
    ):
        assert read_both("hermes", text)[1] == [F]
    assert read_both("hermes", f"<tool_call>{ONE}<tool_call>{TWO}</tool_call>") == ("", [F, G])
    assert read_both("hermes", f"<tool_call>{ONE} done\n</tool_call> Bye") == (" done\n Bye", [F])
    text = f"<tool_call>{ONE} done <tool_call>{TWO}</tool_call> </tool_call>"
    assert read_both("hermes", text) == (" done", [F, G])
    assert read_both("hermes", "<tool_call><tool_call>no</tool_call>") == (
        "<tool_call><tool_call>no</tool_call>",
        [],
    )
    assert read_both("hermes", f"<tool_call>{ONE}\n<tool_call>no") == ("<tool_call>no", [F])
    text = f"<tool_call>{ONE[:-2]}\n</tool_call>\n<tool_call>{TWO}</tool_call> Bye"
    assert read_both("hermes", text) == (" Bye", [F, G])


LLAMA = [
    (f"I look. {ONE}", "I look.", [F]),
    (f"[{ONE}, {TWO}]", "", [F, G]),
    (f"{ONE}; {TWO}", "", [F, G]),
    (f"{ONE};\n{TWO}", "", [F, G]),
    (f"a {{b}} [1] {ONE} then {TWO}.", "a {b} [1] then.", [F, G]),
    (f"<|python_tag|>[{ONE}; {TWO}]", "", [F, G]),
    (f"x <|python_tag|>{ONE}", "x", [F]),
    ('Nothing: {"name": "John", "age": 3}', 'Nothing: {"name": "John", "age": 3}', []),
    ('{"x": {"name": "f", "parameters": {}}}', '{"x": {"name": "f", "parameters": {}}}', []),
    ("{[{", "{[{", []),
]


@pytest.mark.parametrize("spec", ["llama3_json", "llama4_json"])
@pytest.mark.parametrize("key", ["arguments", "parameters"])
@pytest.mark.parametrize(("text", "content", "calls"), LLAMA)
def test_calls_without_tags_are_found_anywhere(
    spec: str, key: str, text: str, content: str, calls: list[tuple[str, str]]
) -> None:
    assert read_both(spec, text.replace("arguments", key)) == (content, calls)


def test_an_argument_in_json_keeps_every_character() -> None:
    """Valid JSON is passed on as the model wrote it."""
    written = '{ "a" :[1 , 2.50,{"é":"\\u00e9\\/"}],"b":-1e9 ,\n"c" : null}'
    for spec, text in wrapped(f'{{"name": "f", "arguments": {written}}}').items():
        assert read_both(spec, text) == ("", [("f", written)]), spec


PIECES = [*"{}[]:,\"'\\ \nab1-.<é", "true", "nul", "\\u", '"a": ', "\\u00e9"]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from("{["), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_whatever_is_repaired_is_valid_and_what_is_valid_stays(first: str, rest: str) -> None:
    text = first + rest
    repaired = repaired_json(text)
    json.loads(repaired)
    try:
        json.loads(text)
    except ValueError:
        return
    assert repaired == text.rstrip()
