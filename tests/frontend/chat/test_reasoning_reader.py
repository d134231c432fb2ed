"""Reasoning is separated from content alike however its text is cut, and nothing of it is lost."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.frontend.chat.message import CollectedMessage, MessagePart, MessageReader, PlainReader
from headrace.frontend.chat.reasoning.harmony import CHANNEL, MESSAGE, HarmonyReader
from headrace.frontend.chat.reasoning.harmony import END as HARMONY_END
from headrace.frontend.chat.reasoning.harmony import START as HARMONY_START
from headrace.frontend.chat.reasoning.reader import AnswerReader, ReasoningReader
from headrace.protocol.common.reasoning_text import CallStart, ReasoningMarks

START, END, CALL = "<think>", "</think>", "<tool_call>"
LONG, SHORT = 1_000_000, 100_000  # characters


class Counting(PlainReader):
    """Shows which text it was given, and how often it was finished."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.finished = 0

    def feed(self, text: str) -> MessagePart:
        self.given.append(text)
        return super().feed(text)

    def finish(self) -> MessagePart:
        self.finished += 1
        return MessagePart(content="$")

    def finish_reason(self, reason: str) -> str:
        return f"the rest's {reason}"


def make(
    rest: Counting | None = None,
    *,
    is_open: bool = True,
    include: bool = True,
    ends_before: tuple[str, ...] = (),
) -> ReasoningReader:
    calls = tuple(CallStart(mark) for mark in ends_before)
    return ReasoningReader(
        rest or PlainReader(),
        marks=ReasoningMarks((START,), (END,), calls),
        is_open=is_open,
        include=include,
    )


def read(pieces: list[str] | str, **options: Any) -> tuple[str, str]:
    """(reasoning, content) of pieces."""
    message, reader = CollectedMessage(), make(**options)
    for piece in pieces:
        message.add(reader.feed(piece))
    message.add(reader.finish())
    return message.reasoning, message.content


def by_definition(text: str, is_open: bool, ends_before: tuple[str, ...] = ()) -> tuple[str, str]:
    """The same with all of the text there."""
    blank = text[: len(text) - len(text.lstrip())]
    if text.lstrip().startswith(START):
        text, before = text.lstrip()[len(START) :], blank
    elif is_open:
        before = ""
    else:
        return "", text
    found = [
        (text.find(delimiter), delimiter) for delimiter in (END, *ends_before) if delimiter in text
    ]
    if not found:
        return before + text, ""
    index, delimiter = min(found)
    return before + text[:index], text[index + (len(END) if delimiter == END else 0) :]


words = st.sampled_from(
    ["a", " ", "\n", "<", "</", "think", ">", START, END, CALL, "<tool", "_call>", "好", "<<think>"]
)
texts = st.lists(words, max_size=12).map("".join)


@settings(max_examples=500)
@given(texts, st.booleans(), st.booleans(), st.data())
def test_any_cut_gives_the_same_message_and_loses_nothing(
    text: str, is_open: bool, has_tools: bool, data: st.DataObject
) -> None:
    ends_before = (CALL,) if has_tools else ()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = by_definition(text, is_open, ends_before)
    for cut in (pieces, [text], list(text)):
        assert read(cut, is_open=is_open, ends_before=ends_before) == expected
    reasoning, content = expected
    delimiter_chars = len(text) - len(reasoning) - len(content)
    assert delimiter_chars in (0, len(START), len(END), len(START + END))


@given(texts, st.booleans())
def test_reasoning_that_is_not_wanted_is_left_out_alone(text: str, is_open: bool) -> None:
    _, content = read(list(text), is_open=is_open)
    assert read(list(text), is_open=is_open, include=False) == ("", content)


def test_what_is_no_delimiter_any_more_is_given_at_once() -> None:
    reader = make()
    assert reader.feed("a</th") == MessagePart(reasoning="a")
    assert reader.feed("i") == MessagePart()
    assert reader.feed("s b") == MessagePart(reasoning="</this b")
    assert reader.feed(f"c{END}d") == MessagePart(content="d", reasoning="c")
    assert reader.feed(END) == MessagePart(content=END)


def test_the_rest_goes_to_the_other_reader_which_is_finished_once() -> None:
    rest = Counting()
    reader = make(rest)
    for piece in ("<thi", "nk>so", "</think", ">1", "2"):
        reader.feed(piece)
    assert reader.finish() == MessagePart(content="$")
    assert (rest.given, rest.finished) == (["1", "2"], 1)
    assert reader.finish_reason("stop") == "the rest's stop"


def test_a_text_that_ends_in_a_part_of_a_delimiter_keeps_it() -> None:
    assert read(["so</thi"]) == ("so</thi", "")
    assert read(["<thi"], is_open=False) == ("", "<thi")
    assert read(["\n\n"], is_open=False) == ("", "\n\n")
    assert read(["\n<thi"]) == ("\n<thi", "")


def test_a_start_delimiter_later_is_text() -> None:
    assert read([f"I write {START} here{END}x"], is_open=False) == (
        "",
        f"I write {START} here{END}x",
    )
    assert read([f"{START}a{START}b{END}{END}"]) == (f"a{START}b", END)


@pytest.mark.parametrize(
    ("text", "delimiter_chars"),
    [
        ("</think" * (LONG // 7), 0),
        (" " * SHORT, 0),
        ("<" * SHORT, 0),
        (START + "<tool_cal" * (SHORT // 9), len(START)),
        (START + END + "</think" * (SHORT // 7), len(START + END)),
    ],
)
def test_hostile_text_one_character_at_a_time(text: str, delimiter_chars: int) -> None:
    """A reader that looked at all of its text again with each piece would not end here."""
    reasoning, content = read(text, is_open="<t" not in text, ends_before=(CALL,))
    assert len(reasoning) + len(content) + delimiter_chars == len(text)


# Readers of other layouts: any cut gives the same message


def read_with(reader: MessageReader, pieces: list[str] | str) -> tuple[str, str]:
    message = CollectedMessage()
    for piece in pieces:
        message.add(reader.feed(piece))
    message.add(reader.finish())
    return message.reasoning, message.content


def make_any(kind: str) -> MessageReader:
    if kind == "harmony":
        return HarmonyReader(PlainReader(), include=True)
    if kind == "answer":
        return AnswerReader(PlainReader(), "<answer>", "</answer>")
    marks = ReasoningMarks(("<c>",), ("</c>",))
    return ReasoningReader(
        PlainReader(), marks=marks, is_open=True, include=True, heading="thought\n", trims=True
    )


any_words = st.sampled_from(
    [
        *("a", " ", "\n", "<", "<answer>", "</answer>", "<ans", "wer>", "</", "<c>", "</c>"),
        *("thought", "thought\n", HARMONY_START, HARMONY_END, CHANNEL, MESSAGE, "<|", "|>"),
        *("analysis", "final", "commentary", " to=f", "assistant", "<|call|>", "channel"),
    ]
)


@settings(max_examples=500)
@given(
    st.sampled_from(["harmony", "answer", "tags"]),
    st.lists(any_words, max_size=12).map("".join),
    st.data(),
)
def test_any_cut_gives_the_same_message(kind: str, text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = read_with(make_any(kind), [text])
    assert read_with(make_any(kind), [piece for piece in pieces if piece]) == expected
    assert read_with(make_any(kind), text) == expected


def test_calls_in_channels_reach_the_other_reader_as_they_are_written() -> None:
    call = f"{CHANNEL}commentary to=functions.f <|constrain|>json{MESSAGE}{{}}<|call|>"
    thought = f"{CHANNEL}analysis{MESSAGE}Hm{HARMONY_END}"
    for text in (f"{thought}{HARMONY_START}assistant{call}", f"{thought}{call}"):
        rest = text.removeprefix(thought)
        assert read_with(make_any("harmony"), [text]) == ("Hm", rest)
        assert read_with(make_any("harmony"), text) == ("Hm", rest)
