"""Mend schemas of tools that are no JSON schemas, as programs of other languages write them."""

from typing import Any

from headrace.frontend.structured.schema_walk import Schema

# Names of types in other languages, and in formats that resemble JSON schemas; in lower case.
_NAMES = {
    "bool": "boolean",
    "dict": "object",
    "double": "number",
    "float": "number",
    "int": "integer",
    "list": "array",
    "str": "string",
    "tuple": "array",
}
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_ANY = "any"
_OBJECTS = ("$defs", "definitions", "patternProperties", "properties")


def mend(schema: Schema) -> None:
    """Change a schema in place: give its types the names that JSON schemas have for them.

    "any" is no constraint. Where an object must be, an empty list is none: languages that have one
    type for both write it so.
    """
    if "type" in schema:
        _mend_type(schema)
    for keyword in _OBJECTS:
        if schema.get(keyword) == []:
            del schema[keyword]


def _mend_type(schema: Schema) -> None:
    given = schema["type"]
    names = [_mended(each) for each in (given if isinstance(given, list) else [given])]
    if _ANY in names:
        del schema["type"]
    else:
        schema["type"] = names if isinstance(given, list) else names[0]


def _mended(name: Any) -> Any:
    """Return the JSON schema's name of a type; what is unknown as it is."""
    lower = name.lower() if isinstance(name, str) else ""
    mended = _NAMES.get(lower, lower)
    return mended if mended == _ANY or mended in _TYPES else name
