"""The table of architectures names those that the sweep examines."""

import pytest

from tests.models.catalogue import architectures
from tests.models.outcome import Outcome
from tests.models.table import DOCUMENT, names_in_table, with_table


def test_table_names_every_architecture_once() -> None:
    names = names_in_table(DOCUMENT.read_text())
    assert sorted(names) == sorted(each.name for each in architectures())
    assert len(names) > 250, "transformers' lists must have been read"


def test_table_groups_outcomes_by_reason() -> None:
    outcomes = [
        Outcome("b", "BForCausalLM", "served", is_compiled=True),
        Outcome("a", "AForCausalLM", "served", is_compiled=True),
        Outcome("c", "CForCausalLM", "refused", "CForCausalLM: layer 3 has chunks"),
        Outcome("d", "DForCausalLM", "refused", "DForCausalLM: layer 1 has chunks"),
    ]
    text = with_table("x\n<!-- architectures -->\n<!-- end of architectures -->\n", outcomes)
    assert "| **served**, compiled programs (2) | a, b |\n" in text
    assert "| refused: it: a layer has chunks (2) | c, d |\n" in text
    assert names_in_table(text) == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="architectures"):
        with_table("no table", outcomes)
