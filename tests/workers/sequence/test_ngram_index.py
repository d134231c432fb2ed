from hypothesis import given
from hypothesis import strategies as st

from headrace.protocol.config import SpeculativeConfig
from headrace.workers.sequence.ngram_index import NgramIndex
from headrace.workers.sequence.prompt_lookup import PromptLookup

# few different tokens, so that n-grams recur
texts = st.lists(st.integers(0, 2), min_size=1, max_size=60)


def scan(text: list[int], shortest: int, longest: int, limit: int) -> list[int]:
    """What the index is to give, by looking at the whole text."""
    for size in range(longest, shortest - 1, -1):
        tail = text[len(text) - size :]
        for end in range(len(text) - 1, size - 1, -1):
            if len(tail) == size and text[end - size : end] == tail:
                grown = list(text)
                while len(grown) < len(text) + limit:
                    grown.append(grown[end + len(grown) - len(text)])
                return grown[len(text) :]
    return []


@given(texts, st.integers(1, 4), st.integers(0, 3), st.integers(1, 9), st.data())
def test_the_latest_earlier_occurrence_of_the_longest_ngram(
    text: list[int], shortest: int, more: int, limit: int, data: st.DataObject
) -> None:
    index = NgramIndex(shortest, shortest + more)
    length = 0
    while length < len(text):
        length = data.draw(st.integers(length + 1, len(text)))
        found = index.propose(text[:length], limit)
        assert found == scan(text[:length], shortest, shortest + more, limit)


@given(texts, st.integers(1, 3))
def test_asking_twice_is_the_same_as_once(text: list[int], shortest: int) -> None:
    index = NgramIndex(shortest, shortest + 1)
    assert index.propose(text, 3) == index.propose(text, 3)


def test_a_period_goes_on_beyond_the_end() -> None:
    assert NgramIndex(2, 3).propose([9, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]


CONFIG = SpeculativeConfig(
    method="ngram", num_speculative_tokens=4, prompt_lookup_max=2, prompt_lookup_min=1
)


def test_right_drafts_make_the_next_longer_and_wrong_ones_shorter() -> None:
    text = [1] * 20
    prompt_lookup = PromptLookup(CONFIG)
    first = len(prompt_lookup.propose(text, 99))
    for _ in range(10):
        prompt_lookup.record(4, 4, 20)
    assert len(prompt_lookup.propose(text, 99)) == 4 > first
    for _ in range(3):
        prompt_lookup.record(4, 0, 20)
    assert len(prompt_lookup.propose(text, 99)) == 2
    assert prompt_lookup.propose(text, 1) == [1]
    assert prompt_lookup.propose(text, 0) == []


def test_drafts_that_never_prove_right_become_rare() -> None:
    text = [1] * 10
    prompt_lookup = PromptLookup(CONFIG)
    drafted = 0
    while len(text) < 4000:
        guess = prompt_lookup.propose(text, 4)
        text.append(1)
        if guess:
            drafted += len(guess)
            prompt_lookup.record(len(guess), 0, len(text))
    assert 0 < drafted < 0.02 * len(text)
    while not (guess := prompt_lookup.propose(text, 4)):  # but they are tried again
        text.append(1)
        assert len(text) < 6000
    for _ in range(5):
        prompt_lookup.record(1, 1, len(text))
    assert len(prompt_lookup.propose(text, 4)) > 1
