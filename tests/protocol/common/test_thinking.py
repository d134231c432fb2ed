"""Tokens of thinking, against a plain search in all of them."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.protocol.common.thinking import ThinkingTracker

Tokens = tuple[int, ...]

tokens = st.integers(0, 3)
delimiters = st.lists(tokens, min_size=1, max_size=3).map(tuple)
outputs = st.lists(tokens, max_size=14).map(tuple)


def by_definition(
    start: Tokens, ends: list[Tokens], is_open: bool, output: Tokens
) -> tuple[int, bool]:
    """(tokens of thinking, whether it is over), of an output that says whether it has begun."""
    if start and output[: len(start)] == start:
        thought = output[len(start) :]
    elif is_open:
        thought = output
    else:
        return 0, not start or output != start[: len(output)]
    for length in range(1, len(thought) + 1):
        for end in ends:
            if thought[:length][-len(end) :] == end:
                return length - len(end), True
    return len(thought), False


@given(
    delimiters | st.just(()), st.lists(delimiters, min_size=1, max_size=2), st.booleans(), outputs
)
def test_counts_are_those_of_a_search(
    start: Tokens, ends: list[Tokens], is_open: bool, output: Tokens
) -> None:
    undecided = len(output) < len(start) and output == start[: len(output)]
    block = ThinkingTracker(start, ends, is_open)
    block.feed(output)
    # Tokens that may turn out to be the start delimiter's count as thinking so far.
    if not (undecided and is_open):
        assert (block.num_tokens, block.is_over) == by_definition(start, ends, is_open, output)


@given(
    delimiters | st.just(()),
    st.lists(delimiters, min_size=1, max_size=2),
    st.booleans(),
    outputs,
    st.integers(0, 14),
)
def test_pieces_and_copies_change_nothing(
    start: Tokens, ends: list[Tokens], is_open: bool, output: Tokens, cut: int
) -> None:
    whole, parts = (ThinkingTracker(start, ends, is_open) for _ in range(2))
    whole.feed(output)
    parts.feed(output[:cut])
    copy = parts.copy()
    parts.feed((0, 1, 2, 3))
    for token_id in output[cut:]:
        copy.feed([token_id])
    seen = [
        (b.num_tokens, b.num_fed, b.is_over or b.missing_end, b.missing_start)
        for b in (whole, copy)
    ]
    assert seen[0] == seen[1]


def test_an_end_delimiter_that_has_begun_is_completed() -> None:
    block = ThinkingTracker((), ((7, 8, 7, 9),), True)
    assert tuple(block.missing_end) == (7, 8, 7, 9)
    block.feed((7, 8, 7))
    assert tuple(block.missing_end) == (9,)
    block.feed((8,))
    assert tuple(block.missing_end) == (7, 9)
    block.feed((5,))
    assert tuple(block.missing_end) == (7, 8, 7, 9)


def test_a_start_delimiter_that_has_begun() -> None:
    block = ThinkingTracker((5, 6), ((9,),), True)
    assert tuple(block.missing_start) == (5, 6)
    block.feed((5,))
    assert tuple(block.missing_start) == (6,)
    block.feed((6, 1, 2))
    assert (block.num_tokens, block.missing_start) == (2, ())
