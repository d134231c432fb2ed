"""Tokens of thinking, against a plain search in the text of all of them."""

from hypothesis import assume, given
from hypothesis import strategies as st

from headrace.protocol.common.reasoning_text import CallStart, ReasoningMarks
from headrace.protocol.common.thinking import ThinkingTracker

TEXTS = ["a", "b", "ab", "cab", "c"]

token_ids = st.lists(st.integers(0, len(TEXTS) - 1), max_size=14)
texts = st.text("abc", min_size=1, max_size=3)
marks = st.builds(
    ReasoningMarks,
    st.lists(texts, max_size=1).map(tuple),
    st.lists(texts, min_size=1, max_size=2, unique=True).map(tuple),
)


def tracker(marks: ReasoningMarks, is_open: bool) -> ThinkingTracker:
    return ThinkingTracker(marks, is_open, TEXTS.__getitem__)


def text_of(output: list[int]) -> str:
    return "".join(TEXTS[token_id] for token_id in output)


def by_definition(marks: ReasoningMarks, is_open: bool, output: list[int]) -> tuple[int, bool]:
    """(tokens of thinking, whether it is over), of an output that says whether it has begun."""
    text, begin = text_of(output), 0
    for start in marks.starts:
        if text.startswith(start):
            begin = len(start)
    if not begin and not is_open:
        return 0, True
    found = [at for end in marks.ends if (at := text.find(end, begin)) >= 0]
    stop = min(found, default=len(text))
    position, count = 0, 0
    for token_id in output:
        is_whole = position >= begin and position + len(TEXTS[token_id]) <= stop
        count, position = count + is_whole, position + len(TEXTS[token_id])
    return count, bool(found)


def is_useful(marks: ReasoningMarks) -> bool:
    return not any(a.startswith(b) for a in marks.ends for b in marks.ends if a is not b)


@given(marks, st.booleans(), token_ids)
def test_counts_are_those_of_a_search(
    marks: ReasoningMarks, is_open: bool, output: list[int]
) -> None:
    assume(is_useful(marks))
    text = text_of(output)
    assume(not any(start.startswith(text) for start in marks.starts))  # it is decided how it begins
    block = tracker(marks, is_open)
    block.feed(output)
    assert (block.num_tokens, block.is_over) == by_definition(marks, is_open, output)


@given(marks, st.booleans(), token_ids, st.integers(0, 14))
def test_pieces_and_copies_change_nothing(
    marks: ReasoningMarks, is_open: bool, output: list[int], cut: int
) -> None:
    assume(is_useful(marks))
    whole, parts = (tracker(marks, is_open) for _ in range(2))
    whole.feed(output)
    parts.feed(output[:cut])
    copy = parts.copy()
    parts.feed((0, 1, 2, 3))
    for token_id in output[cut:]:
        copy.feed([token_id])
    seen = [(b.num_tokens, b.is_over or (b.missing_end, b.num_fed)) for b in (whole, copy)]
    assert seen[0] == seen[1]
    assert whole.missing_start == copy.missing_start


def test_an_end_that_has_begun_is_completed() -> None:
    block = ThinkingTracker(ReasoningMarks((), ("xyxz",)), True, "xyz-".__getitem__)
    assert block.missing_end == "xyxz"
    block.feed((0, 1, 0))
    assert block.missing_end == "z"
    block.feed((1,))
    assert block.missing_end == "xz"
    block.feed((3,))
    assert block.missing_end == "xyxz"


def test_a_start_that_has_begun() -> None:
    block = ThinkingTracker(ReasoningMarks(("xy",), ("z",)), True, "xyz-".__getitem__)
    assert block.missing_start == "xy"
    block.feed((0,))
    assert block.missing_start == "y"
    block.feed((1, 3, 3))
    assert (block.num_tokens, block.missing_start) == (2, "")


def test_a_delimiter_in_other_tokens_with_text_around_it() -> None:
    pieces = ["<think>\n", "so", " a</", "th", "ink>\n\n", "Paris"]
    marks = ReasoningMarks(("<think>",), ("</think>",))
    for size in (1, 2, 6):
        block = ThinkingTracker(marks, False, pieces.__getitem__)
        for start in range(0, 6, size):
            block.feed(range(start, min(6, start + size)))
        assert (block.num_tokens, block.is_over, block.space_after_end) == (1, True, 2)


def test_tokens_of_a_call_are_not_thinking() -> None:
    pieces = ["so ", "<call>", "what? ", "<call>", "{", '"name": "', "f", '"}']
    marks = ReasoningMarks((), ("</think>",), (CallStart("<call>", (' { "name" : "%"',)),))
    block = ThinkingTracker(marks, True, pieces.__getitem__)
    for token_id, before in zip(range(8), (None, 1, None, 3, 3, 3, 3, None), strict=True):
        block.feed([token_id])
        assert block.num_before_call == before
    assert (block.num_tokens, block.is_over) == (3, True)
