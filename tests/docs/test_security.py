"""docs/security.md names tests that exist, and has a row for each advisory that a test is for."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, code_spans

DOCUMENT = ROOT / "docs" / "security.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SECURITY_TESTS = sorted((ROOT / "tests" / "security").glob("test_*.py"))

_ID = re.compile(r"CVE-\d{4}-\d{4,}|GHSA(?:-[0-9a-z]{4}){3}|#\d{5}")
CITED = sorted({span for line in TEXT.splitlines() for span in code_spans(line) if "::" in span})


def names_in(file: Path) -> set[str]:
    """Return the tests of a module: functions, classes, and `Class::function`."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return {name for name in found if re.search(r"(^|::)([Tt]est)\w*$", name)}


def rows_of_advisories() -> dict[str, str]:
    """Return the rows of the table of advisories, by the text of their first cells."""
    rows = [line for line in TEXT.splitlines() if re.match(rf"\| *(?:{_ID.pattern})", line)]
    return {row.split("|")[1].strip(): row for row in rows}


ROWS = rows_of_advisories()


def test_many_tests_are_cited() -> None:
    assert len(CITED) > 80
    assert len(ROWS) >= 25


@pytest.mark.parametrize("cited", CITED)
def test_a_cited_test_exists(cited: str) -> None:
    path, _, name = cited.partition("::")
    assert (ROOT / path).is_file()
    assert name in names_in(ROOT / path)


@pytest.mark.parametrize("advisory", ROWS)
def test_an_advisory_has_a_test_that_names_it(advisory: str) -> None:
    cited = [span for span in code_spans(ROWS[advisory]) if span.startswith("tests/")]
    assert any("::" in span for span in cited)
    sources = "".join(
        (ROOT / span.partition("::")[0]).read_text(encoding="utf-8") for span in cited
    )
    assert [each for each in _ID.findall(advisory) if each not in sources] == []


def test_each_advisory_of_a_test_has_a_row() -> None:
    tested = {each for file in SECURITY_TESTS for each in _ID.findall(file.read_text())}
    listed = {each for advisory in ROWS for each in _ID.findall(advisory)}
    assert tested - listed == set()


def test_each_module_of_attacks_is_cited() -> None:
    names = {str(file.relative_to(ROOT)) for file in SECURITY_TESTS}
    assert names - {cited.partition("::")[0] for cited in CITED} == set()
