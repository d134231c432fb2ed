"""The comparison of real models tells a wrong text from a tie, and names what differs."""

import pytest

from bench.real_models.outcomes import Greedy, show_texts, show_tokens
from bench.real_models.texts import MARKS, nasty_texts

EXPECTED = [Greedy([5, 6, 7], [1.0, 0.001, 2.0])]


@pytest.mark.parametrize(
    ("found", "is_right"),
    [
        ([5, 6, 7], True),
        ([5, 9, 9], True),  # a tie at the second token; what follows is another text
        ([9, 6, 7], False),
        ([5, 6, 9], False),
        ([5, 6], False),
        ([], False),
    ],
)
def test_a_text_may_differ_only_at_a_tie(found: list[int], is_right: bool) -> None:
    assert show_texts("compiled", EXPECTED, [found]) is is_right


def test_differing_token_ids_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_tokens("it", ["a", "b"], [[1], [2]], [[1], [2]])
    assert not show_tokens("it", ["a", "b"], [[1], [2]], [[1], [3]])
    shown = capsys.readouterr().out
    assert "2 of 2 texts" in shown
    assert "1 of 2 texts" in shown
    assert "'b': [2], there [3]" in shown


def test_nasty_texts_are_encodable_and_hold_each_mark_within_a_text() -> None:
    texts = nasty_texts(random_texts=20)
    for text in texts:
        text.encode()
        assert "\0" not in text, "a server refuses it"
    assert len(set(texts)) > 70
    for mark in MARKS:
        assert any(mark in text and text != mark for text in texts)
