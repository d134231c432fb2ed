"""Which of the reference's tool parsers there are."""

import re
from pathlib import Path

from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.parser import parser_names

ROOT = Path(__file__).parents[4]
REFERENCE = (Path(__file__).parent / "reference_parsers.txt").read_text().split()
DOCS = (ROOT / "docs/tools.md").read_text()


def names_in(text: str) -> set[str]:
    """Names in the first cells of a table."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}


def test_the_docs_say_which_parsers_of_the_reference_are_missing() -> None:
    here, _, rest = DOCS.partition("Not here, of the reference's names:")
    missing = names_in(rest.split("\n\n")[1])
    assert set(REFERENCE) - set(parser_names()) == missing
    assert names_in(here) >= set(REFERENCE) - missing


def test_every_parser_can_be_made() -> None:
    for name in set(REFERENCE) & set(parser_names()):
        parser = find_parser(name)
        assert all(parser.delimiters)
        assert len(set(parser.delimiters)) == len(parser.delimiters)


def test_the_docs_say_which_parsers_cannot_be_strict() -> None:
    without = {name for name in REFERENCE if name in parser_names()}
    without = {name for name in without if find_parser(name).call_syntax is None}
    said = DOCS.partition("every parser\nbut")[2].partition("plug-ins")[0]
    assert set(re.findall(r"`(\w+)`", said)) == without
