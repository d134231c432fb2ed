"""Replace `oneOf` by `anyOf`, which grammars can express.

The two are the same where no value conforms to two of the alternatives.
"""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.structured.schema_walk import Schema, items, mapping, resolve

_MAX_REFERENCES = 16
_ANYTHING = "anything"


def replace_one_of(root: Schema, schema: Schema, *, is_lenient: bool, left_out: set[str]) -> None:
    """Replace a schema's `oneOf` in place if its alternatives exclude each other, or if lenient.

    Adds the keyword to `left_out` in the latter case.
    """
    options = items(schema, "oneOf")
    if not options:
        return
    if not _exclude_each_other([_target(root, option) for option in options], root):
        if not is_lenient:
            return
        left_out.add("oneOf")
    del schema["oneOf"]
    if "anyOf" in schema:
        schema["allOf"] = [*items(schema, "allOf"), {"anyOf": options}]
    else:
        schema["anyOf"] = options


def _exclude_each_other(options: Sequence[Any], root: Schema) -> bool:
    """Return whether no value conforms to two of the schemas, as far as is easily seen."""
    if not all(isinstance(option, dict) for option in options):
        return False
    values: list[set[tuple[str, Any]]] = []  # what the scalars among them list
    whole_types: list[set[str]] = []  # the types of which others allow any value
    objects: list[Schema] = []
    for option in options:
        types, listed = _types(option), _values(option)
        if listed is not None:
            values.append(listed)
        elif types == {"object"}:
            objects.append(option)
        else:
            whole_types.append(types)
    if objects:
        whole_types.append({"object"})
    whole_types.append({kind for listed in values for kind, _ in listed})
    return (
        not any(_ANYTHING in types for types in whole_types)
        and _are_disjoint(whole_types)
        and _are_disjoint(values)
        and (len(objects) < 2 or _are_told_apart(objects, root))
    )


def _are_told_apart(objects: Sequence[Schema], root: Schema) -> bool:
    """Return whether a property tells objects of these schemas apart."""
    return any(_discriminates(name, objects, root) for name in items(objects[0], "required"))


def _discriminates(name: Any, options: Sequence[Schema], root: Schema) -> bool:
    """Return whether all options require a property, each with values of its own."""
    values = []
    for option in options:
        if not isinstance(name, str) or name not in items(option, "required"):
            return False
        listed = _values(_target(root, mapping(option, "properties").get(name)))
        if listed is None:
            return False
        values.append(listed)
    return _are_disjoint(values)


def _are_disjoint(sets: Sequence[Any]) -> bool:
    return sum(map(len, sets)) == len(set().union(*sets))


def _types(schema: Schema) -> set[str]:
    """Return the types that a schema allows; integers are numbers."""
    types = schema.get("type")
    if types is None:
        listed = _values(schema)
        return {_ANYTHING} if listed is None else {kind for kind, _ in listed}
    names = types if isinstance(types, list) else [types]
    return {"number" if name == "integer" else str(name) for name in names}


def _values(schema: Any) -> set[tuple[str, Any]] | None:
    """Return the values that a schema lists, with their types; None if it lists none."""
    if not isinstance(schema, dict):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return None
    named = [(_type_of(value), value) for value in values]
    return set(named) if all(kind is not None for kind, _ in named) else None  # type: ignore[arg-type]


def _type_of(value: Any) -> str | None:
    """Return a scalar's type; None for objects and arrays."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else None


def _target(root: Schema, schema: Any) -> Any:
    """Return the schema that stands behind references."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, dict) or "$ref" not in schema:
            return schema
        target = resolve(root, schema["$ref"])
        if target is None:
            return schema
        schema = target
    return schema
