from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headrace.frontend.text.stop_strings import StopMatcher

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4).map(tuple)


def run(
    stops: tuple[str, ...], include: bool, chunks: list[str] | str, least_chunks: int = 0
) -> tuple[str, str | None]:
    matcher = StopMatcher(stops, include)
    shown = ""
    for number, chunk in enumerate(chunks):
        match = matcher.feed(chunk, number >= least_chunks)
        shown += match.text
        if match.stop is not None:
            return shown, match.stop
    return shown + matcher.flush(), None


def plainly(
    stops: tuple[str, ...], include: bool, text: str, least: int = 0
) -> tuple[str, str | None]:
    """The definition, one prefix of the text after the other. least: where none may end yet."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met and end > least:
            return text[: end if include else end - len(met[0])], met[0]
    return text, None


@given(STOPS, st.booleans(), st.data())
def test_any_split_gives_the_same_text_and_end(
    stops: tuple[str, ...], include: bool, data: st.DataObject
) -> None:
    # Texts of the beginnings of stop strings come close to them often.
    beginnings = [stop[:end] for stop in stops for end in range(1, len(stop) + 1)]
    parts = st.sampled_from(["a", "b", *beginnings])
    text = "".join(data.draw(st.lists(parts, max_size=10)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    chunks = [text[start:end] for start, end in pairwise(edges)]
    number = data.draw(st.integers(0, len(chunks)))
    found = run(stops, include, chunks, number)
    assert found == plainly(stops, include, text, least=edges[number])


@given(STOPS, LETTERS)
def test_only_a_possible_beginning_is_held_back(stops: tuple[str, ...], text: str) -> None:
    matcher = StopMatcher(stops, False)
    shown = ""
    for end, letter in enumerate(text, start=1):
        match = matcher.feed(letter)
        shown += match.text
        if match.stop is not None:
            return
        held = text[len(shown) : end]
        assert text[:end] == shown + held
        assert not held or any(stop.startswith(held) for stop in stops)


def test_a_near_miss_may_be_the_beginning_of_the_match() -> None:
    assert run(("aab",), False, "xaaab") == ("xa", "aab")
    assert run(("ababac",), False, "abababac") == ("ab", "ababac")


def test_of_those_that_end_at_one_character_the_first_in_the_list_counts() -> None:
    assert run(("world", "lo world"), False, "Hello world") == ("Hello ", "world")
    assert run(("lo world", "world"), False, "Hello world") == ("Hel", "lo world")


def test_one_may_begin_where_none_may_end() -> None:
    assert run(("lo wor",), False, ["Hello", " world"], 1) == ("Hel", "lo wor")
    assert run(("lo",), False, ["Hello", " lolo"], 1) == ("Hello ", "lo")
    assert run(("aba",), False, ["aba", "ba"], 1) == ("ab", "aba")


def test_a_long_repetitive_stop_string_costs_no_more_per_character() -> None:
    matcher = StopMatcher(("a" * 4000 + "b",), False)
    shown = matcher.feed("a" * 100_000).text
    assert len(shown) == 96_000
    assert matcher.feed("b").stop is not None
