"""Tokens of reasoning are counted by one rule, however outputs come."""

import pytest

from headrace.frontend.chat.message import PlainReader
from headrace.frontend.chat.reasoning.delimiters import ReasoningDelimiters
from headrace.frontend.chat.reasoning.plan import ReasoningPlan, ReasoningStart
from headrace.frontend.chat.reasoning.token_counter import ReasoningTokenCounter
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.reasoning import FORMATS
from tests.frontend.text.tokenizers_for_tests import byte_level

THOUGHT, ANSWER = "\nHello world. The capital?\n", "\n\nParis is the answer."


@pytest.fixture(scope="module")
def delimiters(text: ModelTokenizer) -> ReasoningDelimiters:
    return ReasoningDelimiters.encode(FORMATS["qwen3"], text)


def count(
    text: ModelTokenizer,
    delimiters: ReasoningDelimiters,
    beginning: ReasoningStart,
    token_ids: list[int],
    size: int,
) -> int:
    thinking = ReasoningPlan(delimiters, beginning)
    reader = thinking.reader(PlainReader(), include=False)
    counts = ReasoningTokenCounter([reader], thinking, text)
    detokenizer = text.detokenizer(skip_special_tokens=True)
    for start in range(0, len(token_ids), size):
        counts.add(0, token_ids[start : start + size])
        reader.feed("".join(map(detokenizer.feed, token_ids[start : start + size])))
    return counts.tokens(0)


def ids(text: ModelTokenizer, written: str) -> list[int]:
    return text.backend.encode(written, add_special_tokens=False).ids


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_delimiters_and_content_do_not_count(
    text: ModelTokenizer, delimiters: ReasoningDelimiters, size: int
) -> None:
    thought = ids(text, THOUGHT)
    written = [*delimiters.start_ids, *thought, *delimiters.end_ids, *ids(text, ANSWER)]
    for beginning in (ReasoningStart.ASSUMED, ReasoningStart.OPTIONAL):
        assert count(text, delimiters, beginning, written, size) == len(thought)
    rest = written[len(delimiters.start_ids) :]
    for beginning in (ReasoningStart.OPEN, ReasoningStart.ASSUMED):
        assert count(text, delimiters, beginning, rest, size) == len(thought)
    assert count(text, delimiters, ReasoningStart.OPTIONAL, rest, size) == 0
    assert count(text, delimiters, ReasoningStart.CLOSED, written, size) == 0
    assert count(text, delimiters, ReasoningStart.OPEN, thought, size) == len(thought)


def test_an_end_delimiter_in_other_tokens_ends_the_count(text: ModelTokenizer) -> None:
    backend = byte_level()
    backend.add_tokens(["</think>"])
    model = ModelTokenizer(text.info, backend)
    delimiters = ReasoningDelimiters.encode(FORMATS["qwen3"], model)
    assert len(delimiters.end_ids) == 1
    other = [token for character in "</think>" for token in ids(model, character)]
    written = [*ids(model, THOUGHT), *other, *ids(model, ANSWER)]
    counted = count(model, delimiters, ReasoningStart.OPEN, written, 1)
    assert counted == len(ids(model, THOUGHT))


def test_grammars_wait_for_the_end_of_reasoning_that_is_certain(
    delimiters: ReasoningDelimiters,
) -> None:
    after = {
        beginning: ReasoningPlan(delimiters, beginning).grammar_after
        for beginning in ReasoningStart
    }
    assert after[ReasoningStart.OPEN] == after[ReasoningStart.ASSUMED] == ("</think>",)
    assert after[ReasoningStart.OPTIONAL] == after[ReasoningStart.CLOSED] == ()


def test_calls_of_tools_end_reasoning_where_there_are_tools(
    delimiters: ReasoningDelimiters,
) -> None:
    call = '<tool_call>{"name": "f"}'
    text = f"so{call}"
    for has_tools, expected in ((True, ("so", call)), (False, (text, ""))):
        thinking = ReasoningPlan(delimiters, ReasoningStart.OPEN, has_tools)
        reader = thinking.reader(PlainReader(), include=True)
        part = reader.feed(text)
        assert (part.reasoning, part.content) == expected
        budget = thinking.budget(5)
        assert budget is not None
        assert budget.end_ids == delimiters.end_ids
        assert [call.mark for call in budget.marks.calls] == ["<tool_call>"] * has_tools
