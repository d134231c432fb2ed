"""Closed objects: no names but those that their schemas give, and no valid object made invalid."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from headrace.frontend.structured.closing import close_objects
from headrace.frontend.structured.schema_walk import resolve
from tests.frontend.structured.schema_matching import Matching

Schema = dict[str, Any]
INTEGER: Schema = {"type": "integer"}
STRING: Schema = {"type": "string"}


def objects(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, **more}


@pytest.fixture(scope="module")
def matching(text_path: Path) -> Matching:
    return Matching(text_path)


A, B = objects({"a": INTEGER}, required=["a"]), objects({"b": INTEGER}, required=["b"])
BASE = {"Base": A}

A_NUMBER = {"a": INTEGER}
MORE = {"a": 1, "x": 1}
CLOSED: list[tuple[Schema, list[Any], list[Any]]] = [
    (A, [{"a": 1}], [MORE, {}]),
    (objects({"p": A}), [{}, {"p": {"a": 1}}], [{"p": MORE}]),
    (
        objects({"l": {"type": "array", "items": A}}),
        [{"l": [{"a": 1}]}],
        [{"l": [MORE]}],
    ),
    (
        objects({"m": {"additionalProperties": A}}),
        [{"m": {"k": {"a": 1}}}],
        [{"m": {"k": MORE}}],
    ),
    # unless it says otherwise
    (objects(A_NUMBER, additionalProperties=True), [MORE], [{"a": "s"}]),
    (objects(A_NUMBER, additionalProperties=STRING), [{"x": "s"}], [{"x": 1}]),
    (objects(A_NUMBER, unevaluatedProperties=STRING), [{"x": 1}], [{"a": "s"}]),
    (objects(A_NUMBER, unevaluatedProperties=False), [{"a": 1}], [{"x": 1}]),
    # objects that name nothing
    (objects({"o": {"type": "object"}}), [{"o": {"x": 1}}], [{"y": 1}]),
    (objects({"o": objects({})}), [{"o": {"x": 1}}], [{"y": 1}]),
    (objects({}), [{}], [{"x": 1}]),
    ({"type": "object"}, [{}, {"x": 1}], []),
    # names that only other keywords give
    (
        objects(A_NUMBER, required=["a", "b"]),
        [{"a": 1, "b": 2}],
        [{"a": 1}, {"a": 1, "b": 2, "x": 1}],
    ),
    (objects(A_NUMBER, dependentRequired={"a": ["b"]}), [{"a": 1, "b": 2}], [{"x": 1}]),
    (objects(A_NUMBER, patternProperties={"^n": INTEGER}), [{"a": 1, "n1": 2}], [{"x": 1}]),
    (objects(A_NUMBER, minProperties=2, required=["a"]), [MORE], []),
    (
        {**A, "if": {"const": {}}, "then": {"properties": {"c": STRING}}},
        [{"a": 1, "c": "s"}],
        [MORE],
    ),
    (objects(A_NUMBER, **{"not": {"required": ["z"]}}), [{"a": 1}], [{"z": 1}]),
    # several schemas of one object
    ({"allOf": [A, B]}, [{"a": 1, "b": 1}], [{"a": 1}, {"a": 1, "b": 1, "x": 1}]),
    ({"allOf": [A]}, [{"a": 1}], [MORE]),
    (
        objects({"p": {"allOf": [{"$ref": "#/$defs/Base"}, B]}, "q": INTEGER}, **{"$defs": BASE}),
        [{"p": {"a": 1, "b": 1}, "q": 1}],
        [{"p": {"a": 1}}, {"p": {"a": 1, "b": 1, "x": 1}}],
    ),
    (
        objects(
            {"p": {"allOf": [{"$ref": "#/$defs/Base"}], "description": "d"}}, **{"$defs": BASE}
        ),
        [{"p": {"a": 1}}],
        [{"p": MORE}],
    ),
    (
        objects({"p": {"$ref": "#/$defs/Base", "description": "d"}}, **{"$defs": BASE}),
        [{"p": {"a": 1}}],
        [{"p": MORE}],
    ),
    (
        {"$ref": "#/$defs/Base", "properties": {"b": INTEGER}, "$defs": BASE},
        [{"a": 1, "b": 1}],
        [{"b": 1}, MORE],
    ),
    (
        {"allOf": [objects({"p": A}), objects({"p": B})]},
        [{"p": {"a": 1, "b": 1}}],
        [{"p": {"a": 1}}, {"x": 1}],
    ),
    # alternatives
    ({"anyOf": [A, B]}, [{"a": 1}, {"b": 1}], [{"a": 1, "b": 1}, MORE]),
    (
        objects({"c": STRING}, anyOf=[A, B]),
        [{"c": "s", "a": 1}, {"b": 1}],
        [{"c": "s"}, MORE],
    ),
    (
        objects({"p": {"anyOf": [A, {"type": "null"}]}}),
        [{"p": None}, {"p": {"a": 1}}],
        [{"p": MORE}],
    ),
    # of which one says otherwise
    ({"allOf": [A, {**B, "additionalProperties": True}]}, [{"a": 1, "b": 1, "x": 1}], [{"a": 1}]),
    # itself
    (
        {
            "$ref": "#/$defs/Node",
            "$defs": {"Node": objects({"next": {"$ref": "#/$defs/Node"}, "n": INTEGER})},
        },
        [{"next": {"next": {"n": 1}}}],
        [{"next": {"next": {"x": 1}}}],
    ),
    # a list whose node is described in two places, which no grammar can follow
    (
        {
            "$defs": {"Node": objects({"next": {"$ref": "#/$defs/Node", "minProperties": 1}})},
            **objects({"list": {"$ref": "#/$defs/Node", "properties": {"n": INTEGER}}}),
            "required": ["list"],
        },
        [{"list": {"next": {"next": {}}}}, {"list": 5}],
        [{}, {"x": 1}],
    ),
    # values
    (objects(A_NUMBER, enum=[{"a": 1, "z": 2}]), [{"a": 1, "z": 2}], [{"a": 1}]),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), CLOSED, ids=str)
def test_closed_objects(
    matching: Matching, schema: Schema, valid: list[Any], invalid: list[Any]
) -> None:
    accepts = matching.of_tool(schema)
    assert [value for value in valid if not accepts(value)] == []
    assert [value for value in invalid if accepts(value)] == []


def test_answers_are_closed_by_their_own_field_alone(matching: Matching) -> None:
    accepts, closed = matching.of_format(A), matching.of_format(A, is_closed=True)
    assert accepts({"a": 1, "x": 1})
    assert closed({"a": 1})
    assert not closed({"a": 1, "x": 1})


NAMES = st.sampled_from("abc")
SCALARS = st.sampled_from([INTEGER, STRING, {"type": "null"}, {"const": 1}, {"enum": ["s", 1]}])
REFERENCES = st.sampled_from(["#/$defs/A", "#/$defs/B"]).map(lambda path: {"$ref": path})


def _object(inner: Any) -> Any:
    properties = st.dictionaries(NAMES, inner, max_size=3)
    required = st.lists(NAMES, max_size=1)
    return st.builds(
        lambda properties, required, others: {
            "type": "object",
            "properties": properties,
            "required": [n for n in required if n in properties or not others],
            **others,
        },
        properties,
        required,
        st.sampled_from(
            [{}, {}, {}, {"additionalProperties": INTEGER}, {"additionalProperties": False}]
        ),
    )


def _combined(inner: Any) -> Any:
    some = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        some.map(lambda schemas: {"allOf": schemas}),
        some.map(lambda schemas: {"anyOf": schemas}),
        st.builds(lambda one, schemas: {**one, "anyOf": schemas}, _object(inner), some),
        st.builds(lambda one, reference: {**one, **reference}, _object(inner), REFERENCES),
        inner.map(lambda schema: {"type": "array", "items": schema}),
    )


SCHEMAS = st.recursive(
    st.one_of(SCALARS, REFERENCES),
    lambda inner: st.one_of(_object(inner), _object(inner), _combined(inner)),
    max_leaves=6,
)
ROOTS = st.builds(
    lambda root, a, b: {**root, "$defs": {"A": a, "B": b}},
    st.one_of(_object(SCHEMAS), _combined(_object(SCHEMAS))),
    _object(SCALARS),
    _object(st.one_of(SCALARS, REFERENCES)),
)
VALUES = st.recursive(
    st.sampled_from([1, "s", None]),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abcx"), inner, max_size=3), st.lists(inner, max_size=2)
    ),
    max_leaves=5,
)
OF_SCHEMAS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


def smaller(value: Any) -> Iterator[Any]:
    """The value, and what is left of it without some of its objects' members."""
    if isinstance(value, list):
        yield from map(list, itertools.product(*(list(smaller(item)) for item in value)))
    elif isinstance(value, dict):
        options = [[*smaller(member), _NONE] for member in value.values()]
        for members in itertools.product(*options):
            pairs = zip(value, members, strict=True)
            yield {name: member for name, member in pairs if member is not _NONE}
    else:
        yield value


_NONE = object()
# What the library does not follow.
LIMITS = ("circular references with sibling keys", "intersection stack level exceeded")


def sample(data: st.DataObject, root: Schema, schema: Any, depth: int = 0) -> Any:
    """A value that is meant for a schema; whether it conforms is another matter."""
    if not isinstance(schema, dict) or depth > 6:
        return 1
    if "const" in schema or "enum" in schema:
        return schema.get("const", data.draw(st.sampled_from(schema.get("enum", [1]))))
    values = []
    if "$ref" in schema:
        values.append(sample(data, root, resolve(root, schema["$ref"]), depth + 1))
    values += [sample(data, root, part, depth) for part in schema.get("allOf", ())]
    if "anyOf" in schema:
        values.append(sample(data, root, data.draw(st.sampled_from(schema["anyOf"])), depth))
    values.append(_sample_of_type(data, root, schema, depth))
    whole = [value for value in values if value is not _NONE] or [1]
    if all(isinstance(value, dict) for value in whole):
        return {name: member for value in whole for name, member in value.items()}
    return whole[0]


def _sample_of_type(data: st.DataObject, root: Schema, schema: Schema, depth: int) -> Any:
    match schema.get("type"):
        case "object":
            names = data.draw(st.sets(st.sampled_from("abcx"))) | set(schema.get("required", ()))
            members = {**dict.fromkeys("abcx", True), **schema.get("properties", {})}
            return {name: sample(data, root, members[name], depth + 1) for name in sorted(names)}
        case "array":
            number = data.draw(st.integers(0, 2))
            return [sample(data, root, schema.get("items"), depth + 1) for _ in range(number)]
        case "string":
            return "s"
        case None:
            return _NONE
        case kind:
            return None if kind == "null" else 1


@OF_SCHEMAS
@given(ROOTS, st.data())
def test_closing_leaves_a_part_of_each_valid_value_valid(
    schema: Schema, data: st.DataObject
) -> None:
    """What is not named may go; the rest must not become impossible."""
    value = sample(data, schema, schema)
    assume(jsonschema.Draft202012Validator(schema).is_valid(value))
    closed = copy.deepcopy(schema)
    close_objects(closed)
    validator = jsonschema.Draft202012Validator(closed)
    assert any(validator.is_valid(part) for part in smaller(value)), (closed, value)


@OF_SCHEMAS
@given(ROOTS, VALUES)
def test_closing_makes_nothing_valid(schema: Schema, value: Any) -> None:
    closed = copy.deepcopy(schema)
    close_objects(closed)
    if jsonschema.Draft202012Validator(closed).is_valid(value):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize("is_tool", [True, False])
@OF_SCHEMAS
@given(ROOTS, st.data())
def test_grammars_accept_what_is_valid(
    matching: Matching, is_tool: bool, schema: Schema, data: st.DataObject
) -> None:
    """Of tools: what is valid when closed. The judge is jsonschema."""
    closed = copy.deepcopy({"type": "object", **schema})
    if is_tool:
        close_objects(closed)
    value = sample(data, closed, closed)
    assume(isinstance(value, dict))
    assume(jsonschema.Draft202012Validator(closed).is_valid(value))
    try:
        accepts = matching.of_tool(schema) if is_tool else matching.of_format(closed)
    except ValueError as error:
        if is_tool or not any(limit in str(error) for limit in LIMITS):
            raise
        return
    assert any(map(accepts, orders(value))), (schema, value)


def orders(value: Any) -> Iterator[Any]:
    """The value with its members in all orders: a grammar takes them in one of them."""
    if isinstance(value, list):
        yield from map(list, itertools.product(*(list(orders(item)) for item in value)))
    elif isinstance(value, dict):
        for names in itertools.permutations(value):
            for members in itertools.product(*(list(orders(value[name])) for name in names)):
                yield dict(zip(names, members, strict=True))
    else:
        yield value
