"""Reasoning is found alike however its text is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.protocol.common.reasoning_text import CallStart, ReasoningMarks, ReasoningScanner
from headrace.protocol.reasoning import FORMATS

START, END, CALL = "<think>", "</think>", "<tool_call>"
NAMED = f'{CALL}\n{{"name": "f"'


def scan(pieces: list[str] | str, marks: ReasoningMarks, is_open: bool = True) -> tuple[str, str]:
    """(reasoning, the rest) of an output."""
    scanner, reasoning, rest = ReasoningScanner(marks, is_open), "", ""
    for piece in pieces:
        if scanner.is_over:
            rest += piece
            continue
        reasoning += scanner.feed(piece)
        rest += scanner.rest
    if not scanner.is_over:
        reasoning += scanner.finish()
        rest += scanner.rest
    return reasoning, rest


words = st.sampled_from(
    [
        *("a", " ", "\n", "<", "</", "think", ">", START, END, CALL, "<tool", "_call>", NAMED),
        *('{"name"', ': "', 'f"', "{", "[", "<function=", "f>", '"arguments": {', "<arg_key>"),
    ]
)
outputs = st.lists(words, max_size=10).map("".join)


@settings(max_examples=500)
@given(st.sampled_from(sorted(FORMATS)), outputs, st.booleans(), st.booleans(), st.data())
def test_any_cut_gives_the_same(
    name: str, text: str, is_open: bool, with_calls: bool, data: st.DataObject
) -> None:
    marks = FORMATS[name].marks(with_calls=with_calls)
    text = text.replace(CALL, marks.calls[0].mark if marks.calls else CALL)
    text = text.replace(START, marks.starts[0]).replace(END, marks.ends[0])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert scan(pieces, marks, is_open) == scan([text], marks, is_open)
    assert scan(text, marks, is_open) == scan([text], marks, is_open)


QWEN3 = FORMATS["qwen3"].marks(with_calls=True)


@pytest.mark.parametrize(
    "thought",
    [
        f"I may write {CALL} here.",
        f"{CALL} and </tool_call> are tags",
        f'the form is {CALL}{{"name": ...}}</tool_call>',
        f"{CALL}\nNo, no.",
        f"{CALL} {CALL}\n\n",
        f'{CALL}{{"city": "Oslo"}}',
        CALL,
        f'{CALL}{{"name": "f',
        f"{CALL}\n{{",
    ],
)
def test_a_mention_of_a_call_ends_nothing(thought: str) -> None:
    for pieces in ([f"{thought}{END}yes"], f"{thought}{END}yes"):
        assert scan(list(pieces), QWEN3) == (thought, "yes")
    assert scan(thought, QWEN3) == (thought, "")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("qwen3", f'{CALL}\n{{"name": "f", "arguments": {{}}}}\n</tool_call>'),
        ("qwen3", f'{CALL} [{{ "name" : "f"}}]</tool_call>'),
        ("qwen3", f'{CALL}{{"arguments": {{"a": 1}}, "name": "f"}}</tool_call>'),
        ("qwen3", f"{CALL}\n<function=f>\n</function>\n</tool_call>"),
        ("glm45", f"{CALL}f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"),
        ("glm45", f"{CALL}f\n</tool_call>"),
        ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"),
        ("minimax_m2", '<minimax:tool_call>\n<invoke name="f">\n</invoke>'),
        ("seed_oss", "<seed:tool_call>\n<function=f>\n</function>"),
        ("gemma4", "<|tool_call>call:f{a:1}<tool_call|>"),
        ("mistral", '[TOOL_CALLS]f{"a": 1}'),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}'),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}]'),
        ("deepseek_v4", '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">'),
        ("cohere_command3", '<|START_ACTION|>[\n    {"tool_call_id": "0"'),
        ("openai_gptoss", "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}"),
    ],
)
def test_a_call_ends_reasoning(name: str, call: str) -> None:
    format_ = FORMATS[name]
    mark = next(mark for mark in format_.ends_before if call.startswith(mark))
    for thought in ("so ", f"so {mark} or ", f"so {mark}"):
        text = thought + call
        marks = format_.marks(with_calls=True)
        assert scan([text], marks) == scan(text, marks) == (thought, call)
        assert scan([text], format_.marks()) == (text, "")


def test_a_mark_without_shapes_always_ends_it() -> None:
    marks = ReasoningMarks((), ("</t>",), (CallStart("<c>"),))
    assert scan("a<c>b</t>", marks) == ("a", "<c>b</t>")


def test_what_is_no_delimiter_any_more_is_given_at_once() -> None:
    scanner = ReasoningScanner(QWEN3, True)
    fed = [scanner.feed(piece) for piece in ("a</th", "is ", CALL, "\n", '{"na', "x")]
    assert fed == ["a", "</this ", "", "", "", f'{CALL}\n{{"nax']


@pytest.mark.parametrize(
    "unit", [CALL, f"{CALL} ", f'{CALL}{{"name": "', "</think", " ", "<", f"{CALL}\n" * 3]
)
@pytest.mark.parametrize("size", [1, 50_000])
def test_hostile_text(unit: str, size: int) -> None:
    """A scanner that looked at all of its text again with each piece would not end here."""
    text = unit * (50_000 // len(unit))
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert scan(pieces, QWEN3) == (text, "")
