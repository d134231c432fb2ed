"""The table of architectures names those that the sweep examines."""

from tests.models.catalogue import architectures
from tests.models.table import DOCUMENT, names_in_table


def test_table_names_every_architecture_once() -> None:
    names = names_in_table(DOCUMENT.read_text())
    assert sorted(names) == sorted(each.name for each in architectures())
    assert len(names) > 250, "transformers' lists must have been read"
