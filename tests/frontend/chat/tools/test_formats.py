"""Every parser on the calls that its models write: with text around, cut, damaged, and hard."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.parser import parser_names
from headrace.frontend.chat.tools.reader import ToolCallReader
from tests.frontend.chat.tools.reading import message_of, read, read_both
from tests.frontend.chat.tools.written import F_ARGUMENTS, TOOLS, WRITTEN

ALL = [(spec, text) for spec, texts in WRITTEN.items() for text in texts]
# Their marks around text are no content, whether or not there is a call.
DROP_MARKS = (
    *("openai", "ernie45", "cohere_command3", "cohere_command4", "gigachat3", "inkling"),
    "kimi_k3",
)
# They end the output at a call, so that no text follows one.
LAST = ("openai", "gigachat3", "granite-20b-fc")


def test_every_parser_is_tested() -> None:
    names = set(parser_names()) - {"deepseek", "generic", "gpt_oss"}
    assert names - {"failing", "waiting", "all", "action"} <= set(WRITTEN)


@pytest.mark.parametrize(("spec", "text"), ALL)
def test_calls_are_read(spec: str, text: str) -> None:
    content, calls = read_both(spec, text, TOOLS)
    assert content.strip() == ""
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [
        ("f", F_ARGUMENTS),
        ("g", {}),
    ]


@pytest.mark.parametrize(("spec", "text"), ALL)
def test_text_around_calls_is_content(spec: str, text: str) -> None:
    if text.startswith(" to="):
        return  # such a header is the beginning of the output
    content, calls = read_both(spec, f"I look.\n{text}", TOOLS)
    assert (content.strip(), len(calls)) == ("I look.", 2)
    if spec not in LAST:
        content, calls = read_both(spec, f"I look.\n{text}\nDone.", TOOLS)
        assert (" ".join(content.split()), len(calls)) == ("I look. Done.", 2)


@pytest.mark.parametrize(("spec", "text"), ALL)
def test_wherever_an_output_is_cut_it_holds_calls_or_text(spec: str, text: str) -> None:
    for end in range(1, len(text), 2):
        content, calls = read(spec, [text[:end]], TOOLS)
        assert read(spec, list(text[:end]), TOOLS) == (content, calls)
        for name, arguments in calls[:-1]:
            assert name == "f"
            assert json.loads(arguments) == F_ARGUMENTS
        if not calls and spec not in DROP_MARKS:
            assert content == text[:end]
        if calls and len(calls) == 1:
            assert "Pa ris" not in content


PARTS = [
    *["</tool_call>", "<tool_call>", "<function=", "</function>", "<parameter=", "</parameter>"],
    *['<invoke name="', '">', "<arg_key>", "</arg_key>", "<arg_value>", "[TOOL_CALLS]", "[ARGS]"],
    *[
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "<|call|>",
        "<|end|>",
        "commentary to=functions.f",
    ],
    *['<|"|>', "call:f{", "<escape>", "functools", "f", "g(", "a=1", ")", "x='y'", "é", ">", "<"],
    *['{"name": "f", ', '"arguments": ', "{", "}", "[", "]", ",", ";", '"', "'", "\\", "\n", " "],
    *['{"a": [1, "}"]}', "1.5", "null", "text", ":", "```", "```json\n", "True"],
]
NAMES = sorted(WRITTEN)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[str, str]:
    """A format, and a text of it that is good, damaged, or made of its parts."""
    spec = draw(st.sampled_from(NAMES))
    text = draw(st.sampled_from(WRITTEN[spec]))
    kind = draw(st.sampled_from(["whole", "damaged", "shuffled"]))
    if kind == "damaged":
        for _ in range(draw(st.integers(1, 3))):
            start = draw(st.integers(0, len(text)))
            end = min(len(text), start + draw(st.integers(0, 8)))
            text = text[:start] + draw(st.sampled_from(["", *PARTS])) + text[end:]
    if kind == "shuffled":
        size = draw(st.integers(3, 30))
        own = [text[start : start + size] for start in range(0, len(text), size)]
        pieces = st.one_of(st.sampled_from(own), st.sampled_from(PARTS))
        text = "".join(draw(st.lists(pieces, max_size=15)))
    return spec, text


@settings(max_examples=600, deadline=None)
@given(outputs(), st.data())
def test_however_a_text_is_split_it_says_the_same(
    output: tuple[str, str], data: st.DataObject
) -> None:
    spec, text = output
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = message_of(spec, [text], TOOLS)
    calls = [(call.name, call.arguments) for call in whole.tool_calls]
    for other in (message_of(spec, pieces, TOOLS), message_of(spec, list(text), TOOLS)):
        assert (other.content, other.reasoning) == (whole.content, whole.reasoning)
        assert [(call.name, call.arguments) for call in other.tool_calls] == calls
    if not calls and spec not in DROP_MARKS:
        assert whole.content == text
    for _, arguments in calls[:-1]:
        json.loads(arguments)


CANARY = "__import__('os').system('touch canary')"


@pytest.mark.parametrize(("spec", "text"), ALL)
def test_nothing_is_evaluated(
    spec: str, text: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("Pa ris", "3", "{}"):
        read_both(spec, text.replace(place, CANARY), TOOLS)
    assert list(tmp_path.iterdir()) == []
    if "Pa ris" in text and "'" not in text:
        _, calls = read_both(spec, text.replace("Pa ris", CANARY), TOOLS)
        assert json.loads(calls[0][1])["a"] == CANARY


def hard_texts(text: str) -> list[str]:
    """What to repeat so that a reader looks far ahead, or back: pieces of a call, and brackets."""
    middle = len(text) // 2
    return [
        text,
        text[:middle],
        text[:10],
        text[3:13],
        "{",
        "[",
        '{"a":[',
        "<",
        "\\",
        '"',
        " ",
        "```",
    ]


def work(spec: str, text: str) -> int:
    """Calls of functions for a text that comes in pieces."""
    reader, counted = ToolCallReader(find_parser(spec), tools=TOOLS), 0

    def count(*_: Any) -> None:
        nonlocal counted
        counted += 1

    sys.setprofile(count)
    try:
        for start in range(0, len(text), 7):
            reader.feed(text[start : start + 7])
            assert len(reader._source._text) < 200  # each step looks at little
        reader.finish()
    finally:
        sys.setprofile(None)
    return counted


@pytest.mark.parametrize("spec", NAMES)
def test_hard_text_is_read_with_work_in_proportion_to_its_length(spec: str) -> None:
    text = WRITTEN[spec][0]
    for unit in hard_texts(text):
        for before in ("", text[: len(text) // 3]):
            sizes = [before + (unit * (size // len(unit) + 1))[:size] for size in (500, 2000)]
            small, large = (work(spec, one) for one in sizes)
            assert large < 5 * small + 1000, (unit, before)
