"""The lists of docs/models.md are those of the code."""

import pytest

from headrace.workers.prepare.gguf_models.registry import ARCHITECTURES
from tests.models.catalogue import architectures
from tests.models.outcome import Outcome
from tests.models.table import DOCUMENT, names_in_table, with_table


def test_table_names_every_architecture_once() -> None:
    names = names_in_table(DOCUMENT.read_text())
    assert sorted(names) == sorted(each.name for each in architectures())
    assert len(names) > 250, "transformers' lists must have been read"


def test_list_of_gguf_architectures_is_the_registrys() -> None:
    _, rest = DOCUMENT.read_text().split("<!-- gguf -->")
    listed = rest.partition("<!-- end of gguf -->")[0].replace("\n", " ").split(",")
    assert [name.strip() for name in listed] == sorted(ARCHITECTURES)


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
