"""Mend schemas of tools that are no JSON schemas, as programs of other languages write them."""

from typing import Any

from headrace.frontend.structured.schema_walk import Schema

# Names of types in other languages, and in formats that resemble JSON schemas; in lower case.
_OTHER_NAMES = {
    "bool": "boolean",
    "dict": "object",
    "double": "number",
    "float": "number",
    "int": "integer",
    "list": "array",
    "str": "string",
    "tuple": "array",
}
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_NAMES = {**_OTHER_NAMES, **dict.fromkeys(_TYPES)}
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
    if lower == _ANY:
        return _ANY
    return (_NAMES[lower] or lower) if lower in _NAMES else name
