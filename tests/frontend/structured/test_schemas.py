"""JSON schemas as clients write them: what is enforced, what is left out, and what is an error."""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.grammars import strict_calls
from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.schemas.tools import FunctionDefinition
from headrace.frontend.structured import checked_schema as module
from headrace.frontend.structured.checked_schema import checked_schema, tool_schema
from headrace.frontend.structured.constraint import tools_constraint
from headrace.frontend.structured.schema_walk import LISTS, MAPS, ONE, all_schemas, resolve
from tests.frontend.structured.schema_matching import Matching

Schema = dict[str, Any]
_ODD_KEYWORDS: tuple[str, ...] = (
    "type",
    "required",
    "const",
    "enum",
    "format",
    "pattern",
    "minimum",
    "maxLength",
)
_ODD_KEYWORDS += ("$ref", "$id", "$schema", "dependentRequired", "minProperties", "multipleOf")
INTEGER: Schema = {"type": "integer"}
STRING: Schema = {"type": "string"}


def objects(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, **more}


@pytest.fixture(scope="module")
def matching(text_path: Path) -> Matching:
    return Matching(text_path)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    monkeypatch.setattr(module, "_log", LimitedLog(logging.getLogger("headrace.frontend.checkers")))
    return caplog


# Schemas whose odd keyword excludes nothing, with a value that conforms and one that does not.
EXCLUDE_NOTHING: list[tuple[Schema, Any, Any]] = [
    *(
        ({"type": "string", "format": name}, "x y", 5)
        for name in ("password", "binary", "path", "uri-template", "byte", "no-such-format")
    ),
    ({"type": ["string", "null"], "format": "password"}, None, 5),
    ({"type": "integer", "format": "int32"}, 5, "x"),
    ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, -5, "x"),
    ({"type": "integer", "minimum": 0, "maximum": 2**64}, 5, -5),
    ({"type": "integer", "minimum": -(10**30)}, -5, "x"),
    ({"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1.8e308}, 0.5, "x"),
    ({"type": "number", "exclusiveMaximum": 1e300, "minimum": 0}, 7.5, -1),
    ({"type": "string", "maxLength": 2**40}, "x", 5),
    ({"type": "string", "minLength": 2.0, "maxLength": 3.0}, "xx", "x"),
    ({"type": "array", "items": INTEGER, "uniqueItems": False}, [1, 1], ["x"]),
    ({"type": "array", "items": INTEGER, "unevaluatedItems": True}, [1], ["x"]),
    ({"type": "array", "items": INTEGER, "minContains": 0, "maxContains": 5}, [1], ["x"]),
    ({"type": "array", "contains": INTEGER, "minContains": 0}, ["x"], 5),
    (objects({"a": INTEGER}, unevaluatedProperties={}), {"a": 1, "b": 2}, {"a": "x"}),
    (objects({"a": INTEGER}, dependentRequired={}, dependentSchemas={}), {"a": 1}, {"a": "x"}),
    (objects({"a": INTEGER}, propertyNames={"type": "string"}), {"a": 1, "b": 2}, {"a": "x"}),
    (objects({"a": INTEGER}, propertyNames=True, minProperties=0), {"b": 2}, {"a": "x"}),
    ({"type": "integer", "then": False, "$dynamicAnchor": "x", "not": False}, 5, "x"),
    ({"type": "integer", "if": {"const": 5}, "$comment": "x"}, 5, "x"),
    ({"type": "integer", "$schema": "https://example.com/mine", "deprecated": True}, 5, "x"),
    # Alternatives that exclude each other
    ({"oneOf": [{"const": "a"}, {"enum": ["b", 1]}, {"type": "null"}]}, "b", "c"),
    ({"oneOf": [STRING, {"type": "array", "items": INTEGER}]}, [1], ["x"]),
    (
        {
            "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
            "$defs": {
                "A": objects({"kind": {"const": "a"}}, required=["kind"]),
                "B": objects({"kind": {"const": "b"}, "n": INTEGER}, required=["kind", "n"]),
            },
        },
        {"kind": "b", "n": 1},
        {"kind": "b"},
    ),
]

# Names that are enforced.
NAMES: list[tuple[Schema, list[Any], list[Any]]] = [
    (
        {
            "type": "object",
            "additionalProperties": INTEGER,
            "propertyNames": {"enum": ["red", "blue"]},
        },
        [{}, {"red": 1}, {"red": 1, "blue": 2}],
        [{"green": 1}, {"red": "x"}],
    ),
    (
        {
            "type": "object",
            "additionalProperties": INTEGER,
            "propertyNames": {"$ref": "#/$defs/Color"},
            "$defs": {"Color": {"enum": ["red"], "title": "Color", "type": "string"}},
        },
        [{"red": 1}],
        [{"green": 1}],
    ),
    ({"type": "object", "propertyNames": {"const": "a"}}, [{"a": [1]}], [{"b": 1}]),
    ({"type": "object", "propertyNames": False}, [{}], [{"b": 1}]),
    (
        {"type": "object", "propertyNames": {"anyOf": [{"const": "a"}, {"enum": ["b"]}]}},
        [{"a": 1, "b": 2}],
        [{"c": 1}],
    ),
    (
        {"type": "object", "propertyNames": {"pattern": "^x"}, "additionalProperties": INTEGER},
        [{}, {"x1": 1, "x2": 2}],
        [{"y": 1}, {"x1": "x"}],
    ),
    (
        objects({"xa": STRING, "b": STRING}, propertyNames={"pattern": "^x"}),
        [{"xa": "s", "xb": 5}],
        [{"b": "s"}, {"xa": 5}],
    ),
    (
        objects({"a": STRING, "b": STRING}, propertyNames={"enum": ["a", "c"]}),
        [{"a": "s", "c": 5}],
        [{"b": "s"}, {"a": 5}],
    ),
    (
        objects({"a": STRING}, propertyNames={"enum": ["a", "c"]}, additionalProperties=False),
        [{"a": "s"}],
        [{"c": 5}],
    ),
    (
        {
            "type": "object",
            "patternProperties": {"^n": INTEGER},
            "additionalProperties": STRING,
            "propertyNames": {"enum": ["n1", "s"]},
        },
        [{"n1": 5, "s": "x"}],
        [{"n2": 5}, {"n1": "x"}, {"s": 5}],
    ),
    (
        {"type": "object", "propertyNames": {"minLength": 2, "maxLength": 3}},
        [{"ab": 1}, {"abc": 1}],
        [{"a": 1}, {"abcd": 1}],
    ),
]

# Schemas that cannot be enforced whole: the keyword, and a value that what is left excludes.
NOT_ENFORCED: list[tuple[Schema, str, Any]] = [
    ({"type": "integer", "not": {"const": 5}}, "not", "x"),
    ({"type": "integer", "if": {"const": 1}, "then": {"const": 1}}, "if", "x"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired", "x"),
    ({"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}, "dependentSchemas", "x"),
    ({"type": "string", "pattern": "^a(?=b)"}, "pattern", 5),
    ({"type": "string", "pattern": "(?<!a)b"}, "pattern", 5),
    ({"type": "string", "pattern": "(a)\\1"}, "pattern", 5),
    ({"type": "string", "pattern": "^\\w+\\b$"}, "pattern", 5),
    ({"type": "integer", "minimum": 10**18}, "minimum", "x"),
    ({"type": "integer", "exclusiveMinimum": 1e18}, "exclusiveMinimum", "x"),
    ({"type": "integer", "maximum": -(10**19)}, "maximum", "x"),
    ({"type": "number", "multipleOf": 1e300}, "multipleOf", "x"),
    ({"type": "array", "contains": INTEGER}, "contains", "x"),
    ({"type": "array", "uniqueItems": True, "items": INTEGER}, "uniqueItems", ["x"]),
    ({"type": "array", "unevaluatedItems": False}, "unevaluatedItems", "x"),
    (objects({"a": INTEGER}, propertyNames={"not": {"const": "b"}}), "propertyNames", {"a": "x"}),
    ({"type": "object", "propertyNames": {"pattern": "(?=a)"}}, "propertyNames|pattern", "x"),
    ({"$ref": "#/$defs/none", "type": "integer"}, "ref", "x"),
    ({"oneOf": [INTEGER, {"type": "number"}]}, "oneOf", "x"),
    ({"oneOf": [STRING, {"const": "a"}]}, "oneOf", 5),
    ({"type": "object", "patternProperties": {"^(?!a)": INTEGER}}, "patternProperties", "x"),
    ({"allOf": [INTEGER, {"not": {"const": 5}}]}, "not", "x"),
    ({"anyOf": [{"type": "string", "pattern": "(?=a)"}]}, "pattern", None),
    ({"type": "array", "items": {"$ref": "http://127.0.0.1:1/x"}}, "ref", "x"),
]

# As programs of other languages write schemas: a value that is right, and one that is not.
MISWRITTEN: list[tuple[Schema, Any, Any]] = [
    ({"type": "dict", "properties": {"a": {"type": "int"}}}, {"a": 1}, {"a": "x"}),
    ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}, {"a": "x"}, {"a": 1}),
    ({"type": "float"}, 1.5, "x"),
    ({"type": "list", "items": {"type": "str"}}, ["x"], [1]),
    ({"type": ["bool", "null"]}, True, 1),
    ({"type": "any", "enum": ["x", 1]}, 1, 2),
    ({"type": "object", "properties": []}, {"a": 1}, 1),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), EXCLUDE_NOTHING, ids=str)
def test_what_excludes_nothing_is_no_constraint(
    matching: Matching, schema: Schema, valid: Any, invalid: Any
) -> None:
    accepts = matching.of_format(schema)
    assert accepts(valid)
    assert not accepts(invalid)
    of_tool = matching.of_tool(objects({"it": schema}, required=["it"]))
    nested = json.dumps(schema)
    if "$ref" not in nested:  # its references are from the root
        assert of_tool({"it": valid}) or isinstance(valid, dict)
        assert not of_tool({"it": invalid})


@pytest.mark.parametrize(("schema", "valid", "invalid"), NAMES, ids=str)
def test_names_of_properties_are_enforced(
    matching: Matching, schema: Schema, valid: list[Any], invalid: list[Any]
) -> None:
    for accepts in (matching.of_format(schema), matching.of_tool(schema)):
        assert [value for value in valid if not accepts(value)] == []
        assert [value for value in invalid if accepts(value)] == []


@pytest.mark.parametrize(("schema", "keyword", "invalid"), NOT_ENFORCED, ids=str)
def test_for_a_format_the_error_names_the_keyword(
    matching: Matching, schema: Schema, keyword: str, invalid: Any
) -> None:
    for nested in (schema, objects({"it": schema}), {"type": "array", "items": schema}):
        with pytest.raises(ValueError, match=keyword):
            matching.of_format(nested)


@pytest.mark.parametrize(("schema", "keyword", "invalid"), NOT_ENFORCED, ids=str)
def test_for_a_tool_it_is_left_out_and_the_log_says_so(
    matching: Matching, logged: Any, schema: Schema, keyword: str, invalid: Any
) -> None:
    accepts = matching.of_tool(objects({"it": schema, "other": INTEGER}, required=["it"]))
    assert not accepts({"it": invalid})
    assert not accepts({"it": invalid, "other": 1})
    assert not accepts({})
    (line,) = [record.getMessage() for record in logged.records]
    assert any(name in line for name in keyword.split("|"))
    assert "tools" in line
    matching.of_tool(objects({"it": schema}))
    assert len(logged.records) == 1


@pytest.mark.parametrize(("schema", "valid", "invalid"), MISWRITTEN, ids=str)
def test_types_of_tools_may_have_the_names_of_other_languages(
    matching: Matching, schema: Schema, valid: Any, invalid: Any
) -> None:
    accepts = matching.of_tool(objects({"it": schema}, required=["it"]))
    assert accepts({"it": valid})
    assert not accepts({"it": invalid})


def test_a_name_that_a_left_out_pattern_allowed_stays_possible(matching: Matching) -> None:
    schema = {"patternProperties": {"^(?!a)": INTEGER}, "additionalProperties": False}
    assert matching.of_tool({"type": "object", **schema})({"b": 1})


@pytest.mark.parametrize(
    "value",
    [
        {"properties": {"a": 1}, "not": 5},
        {"type": "object", "properties": {"a": {}}},
        {"propertyNames": {"enum": ["a"]}, "format": "password"},
        ["properties", {"properties": {}}],
        {"$ref": "#/nowhere", "required": None},
    ],
)
def test_values_are_not_schemas(matching: Matching, value: Any) -> None:
    """Also if they look like some, and whatever is closed or left out."""
    schema = objects(
        {"s": {"const": value}, "t": {"enum": [value, 1], "default": value, "examples": [value]}},
        required=["s", "t"],
    )
    for accepts in (
        matching.of_tool(schema),
        matching.of_format(schema, is_closed=True),
        matching.of_format(schema),
    ):
        assert accepts({"s": value, "t": value})
        assert accepts({"s": value, "t": 1})
        assert not accepts({"s": {"properties": {"a": 1}, "additionalProperties": False}, "t": 1})


def test_names_are_not_keywords(matching: Matching) -> None:
    names = ["properties", "enum", "not", "$ref", "const", "format", "additionalProperties", "if"]
    schema = objects(dict.fromkeys(names, STRING), required=names)
    value = dict.fromkeys(names, "x")
    for accepts in (matching.of_tool(schema), matching.of_format(schema, is_closed=True)):
        assert accepts(value)
        assert not accepts({**value, "not": 5})
        assert not accepts({**value, "other": "x"})
    nested = objects({"properties": objects({"properties": INTEGER}, required=["properties"])})
    assert matching.of_tool(nested)({"properties": {"properties": 5}})
    assert not matching.of_tool(nested)({"properties": {"properties": 5, "other": 5}})


def test_references_lead_to_schemas_and_not_into_values() -> None:
    target: Schema = {"type": "integer"}
    root = {
        "properties": {"default": target, "a/b": target, "c%d": target},
        "const": {"x": target},
        "anyOf": [target],
        "components": {"schemas": {"X": target}},
    }
    for found in ("/properties/default", "/properties/a~1b", "/anyOf/0", "/components/schemas/X"):
        assert resolve(root, "#" + found) is target
    assert resolve(root, "#/properties/c%25d") is target
    assert resolve(root, "#") is root
    for missing in ("/const/x", "/properties", "/anyOf", "/anyOf/1", "/anyOf/x", "/no/where"):
        assert resolve(root, "#" + missing) is None
    for odd in ("", "x", "http://x/#/a", "#anchor", 5, None, ["#"]):
        assert resolve(root, odd) is None


def test_each_schema_is_found_once_also_in_cycles() -> None:
    node: Schema = {"properties": {"next": {"$ref": "#/components/Node"}}, "not": {"const": {}}}
    root = {"$ref": "#/components/Node", "components": {"Node": node}}
    found = all_schemas(root)
    assert sorted(map(id, found)) == sorted(
        map(id, [root, node, node["properties"]["next"], node["not"]])
    )


def test_schemas_that_are_made_to_grow_are_given_up(matching: Matching) -> None:
    large = {"enum": [f"value {number}" for number in range(500)]}
    names = {"enum": [f"name {number}" for number in range(500)]}
    schema = {"type": "object", "additionalProperties": large, "propertyNames": names}
    with pytest.raises(ValueError, match="propertyNames"):
        matching.of_format(schema)
    assert matching.of_tool(schema)({"x": "value 1"})


def test_of_alternatives_those_are_kept_that_can_be_enforced(matching: Matching) -> None:
    """An output may have any of them. This is how pydantic describes a Decimal."""
    decimal = {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}
    accepts = matching.of_format(objects({"d": {"anyOf": [{"type": "number"}, decimal]}}))
    assert accepts({"d": 0.5})
    assert not accepts({"d": "0.5"})
    accepts = matching.of_tool(objects({"d": {"anyOf": [{"type": "number"}, decimal]}}))
    assert accepts({"d": 0.5})
    assert accepts({"d": "0.5"})
    assert not accepts({"d": None})


def test_a_pattern_beside_its_format_is_dispensable(matching: Matching, logged: Any) -> None:
    """This is how zod describes an address."""
    pattern = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9]*\.)+[A-Za-z]{2,}$"
    accepts = matching.of_format({"type": "string", "format": "email", "pattern": pattern})
    assert accepts("a@b.org")
    assert not accepts("nobody")
    assert "pattern" in logged.records[0].getMessage()
    with pytest.raises(ValueError, match="'pattern' cannot be enforced"):
        matching.of_format({"type": "string", "format": "no-such-format", "pattern": pattern})


@pytest.mark.parametrize("wrong", [{"type": "nonsense"}, {"properties": 3}, {"anyOf": 5}])
def test_what_is_no_schema_is_an_error_for_tools_too(matching: Matching, wrong: Schema) -> None:
    with pytest.raises(ValueError, match=r"."):
        matching.of_tool(objects({"a": wrong}))


def test_keywords_without_a_value_are_none_for_tools(matching: Matching) -> None:
    """As programs write them that serialize all of an object's fields."""
    nothing = ("enum", "pattern", "format", "items", "required", "additionalProperties", "minimum")
    schema = objects({"a": {**INTEGER, **dict.fromkeys(nothing)}}, **dict.fromkeys(nothing))
    assert matching.of_tool(schema)({"a": 5})
    assert not matching.of_tool(schema)({"a": "x"})
    assert matching.of_tool(objects({"a": {"const": None}}))({"a": None})


KEYWORDS = sorted({*ONE, *LISTS, *MAPS, *_ODD_KEYWORDS})
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 2.5, 1e400, 10**25, "", "(", "object", "#", "#/$defs/a", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYWORDS, "a", "b"]), inner, max_size=4)
    ),
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYWORDS), JUNK, max_size=5))
def test_junk_is_read_or_has_a_reason(schema: Schema) -> None:
    text = json.dumps(schema)
    for prepare in (tool_schema, checked_schema):
        with contextlib.suppress(ValueError):
            prepare(json.loads(text))


def test_arguments_that_are_written_one_by_one_need_not_be_objects(matching: Matching) -> None:
    maybe = {"anyOf": [INTEGER, {"type": "null"}], "not": {"const": 7}}
    named = objects({"properties": objects({}), "n": INTEGER})
    schema = objects({"a": maybe, "o": named, "r": {"$ref": "#/$defs/R"}}, required=["a", "o", "r"])
    schema["$defs"] = {"R": {"type": "array", "items": maybe}}
    function = FunctionDefinition(name="f", parameters=schema, strict=True)
    syntax = find_parser("qwen3_coder").call_syntax
    assert syntax is not None
    accepts = matching.of(tools_constraint(strict_calls([function], syntax, {}, parallel=False)))

    def call(a: Any, o: Any, r: Any) -> str:
        values = {"a": a, "o": o, "r": r}.items()
        body = "".join(f"<parameter={name}>\n{json.dumps(v)}\n</parameter>" for name, v in values)
        return f"<tool_call>\n<function=f>\n{body}</function>\n</tool_call>"

    assert accepts(call(5, {"properties": {"any": 1}, "n": 1}, [None]))
    assert accepts(call(None, {}, []))
    assert not accepts(call({}, {}, []))
    assert not accepts(call(5, {"x": 1}, []))
    assert not accepts(call(5, {}, ["x"]))


@pytest.mark.parametrize("types", [None, ["object", "null"], "object"])
def test_arguments_as_a_whole_are_an_object(matching: Matching, types: Any) -> None:
    accepts = matching.of_tool(
        {"type": types, "anyOf": [objects({"a": INTEGER}), {"type": "null"}]}
    )
    assert accepts({"a": 1})
    assert not accepts(None)
    assert not accepts({"x": 1})
