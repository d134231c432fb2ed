"""White space in JSON: some, as in text that is laid out, but no long runs of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.frontend.structured.constraint import Constraint
from tests.frontend.structured.schema_matching import Accepts, Matching

NESTED = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"type": "object"}}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
VALUE = {"a": [{"c": [1]}], "b": 5}
# A value with a gap wherever there may be one.
GAPS = '{%s"a"%s:%s[%s{%s"c"%s:%s1%s}%s]%s,%s"b"%s:%s5%s}'
SHORT = ["", " ", "    ", " " * 8, "\n", "\n  ", "\r\n", "\n" + " " * 8, "\t", "\n\t\t"]
LONG = [" " * 9, "\n" * 2, "\n" * 40, "\t" * 9, "\n" + " " * 9, " \n", "\n \n", "\r" * 3, "\n " * 8]


@pytest.fixture(scope="module")
def matching(text_path: Path) -> Matching:
    return Matching(text_path)


def schema(**options: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(NESTED), "x", **options)


def tag(node: Any) -> Constraint:
    return Constraint("structural_tag", json.dumps(node), "x")


FORMS: dict[str, Constraint] = {
    "json_schema": schema(),
    "json_object": Constraint("json_object", '{"type":"object"}', "x"),
    "any": Constraint("json_schema", "{}", "x"),
    "format": tag({"format": {"type": "json_schema", "json_schema": NESTED}}),
}


@pytest.mark.parametrize("form", FORMS)
def test_runs_are_short(matching: Matching, form: str) -> None:
    accepts = matching.of(FORMS[form])
    for gap in SHORT:
        assert accepts(filled(gap)), repr(gap)
    for gap in LONG:
        assert not accepts(filled(gap)), repr(gap)
        for at in range(GAPS.count("%s")):
            assert not accepts(filled("", {at: gap})), (repr(gap), at)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("indent", [None, 1, 2, "\t"])
def test_text_may_be_laid_out(matching: Matching, form: str, indent: Any) -> None:
    accepts = matching.of(FORMS[form])
    assert accepts(json.dumps(VALUE, indent=indent))
    assert accepts(json.dumps(VALUE, separators=(",", ":")))


def test_in_the_older_form_of_tags(matching: Matching) -> None:
    structure = {"begin": "<f>", "schema": NESTED, "end": "</f>"}
    accepts = matching.of(tag({"structures": [structure], "triggers": ["<f"]}))
    assert accepts(f"<f>{filled(' ')}</f>")
    assert not accepts(f"<f>{filled('', {3: LONG[0]})}</f>")


@pytest.mark.parametrize(
    ("options", "allowed", "forbidden"),
    [
        ({"whitespace_pattern": " {1,40}"}, [" " * 40], ["\n", " " * 41]),
        ({"whitespace_pattern": r"[ \n]+"}, ["\n" * 200, " \n" * 100], ["\t"]),
        ({"any_whitespace": False}, [""], [" ", "\n"]),
    ],
)
def test_options_decide(
    matching: Matching, options: dict[str, Any], allowed: list[str], forbidden: list[str]
) -> None:
    accepts = matching.of(schema(**options))
    assert all(accepts(filled(gap)) for gap in allowed)
    assert not any(accepts(filled("", {3: gap})) for gap in forbidden)


def test_arguments_of_tools_have_single_spaces(matching: Matching) -> None:
    accepts = written(matching.of_tool(NESTED))
    assert accepts(json.dumps(VALUE))
    for gap in (*SHORT[2:], *LONG):
        assert not accepts(filled(gap))


def filled(gap: str, at: dict[int, str] | None = None) -> str:
    """The value with this white space in each gap, or with another in some."""
    gaps = [(at or {}).get(number, gap) for number in range(GAPS.count("%s"))]
    return GAPS % tuple(gaps)


def written(accepts: Callable[[Any], bool]) -> Accepts:
    """The same for a text, which must be JSON."""
    return lambda text: accepts(json.loads(text)) and text == json.dumps(json.loads(text))
