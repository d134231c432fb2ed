"""Find the schemas within a JSON schema.

Only certain keywords hold schemas. What others hold, such as the values of `const`, `enum` and
`default`, may look like a schema and is none; nor is a property's name a keyword.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]

# Keywords by what they hold: a schema, a list of schemas, or schemas by name.
ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
MAPS = (
    "$defs",
    "definitions",
    "dependencies",
    "dependentSchemas",
    "patternProperties",
    "properties",
)
_HOLDING = frozenset((*ONE, *LISTS, *MAPS))
_VALUES = ("const", "default", "enum", "example", "examples")


def subschemas(schema: Schema) -> Iterator[Schema]:
    """Yield the schemas directly within a schema; those that are true or false are left out."""
    for keyword, value in schema.items():
        if keyword not in _HOLDING:
            continue
        if isinstance(value, list):
            if keyword in LISTS:
                yield from (item for item in value if isinstance(item, dict))
        elif isinstance(value, dict):
            if keyword in ONE:
                yield value
            elif keyword in MAPS:
                yield from (item for item in value.values() if isinstance(item, dict))


def items(schema: Schema, keyword: str) -> list[Any]:
    """Return a keyword's list; an empty one if it is something else."""
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def mapping(schema: Schema, keyword: str) -> dict[str, Any]:
    """Return a keyword's object; an empty one if it is something else."""
    value = schema.get(keyword)
    return value if isinstance(value, dict) else {}


def all_schemas(root: Schema) -> list[Schema]:
    """Return the schema itself and all schemas within it, and those that it refers to."""
    found: dict[int, Schema] = {}
    pending = [root]
    while pending:
        schema = pending.pop()
        if id(schema) in found:
            continue
        found[id(schema)] = schema
        pending += subschemas(schema)
        target = resolve(root, schema.get("$ref"))
        if isinstance(target, dict):
            pending.append(target)
    return list(found.values())


def resolve(root: Schema, reference: Any) -> Any:
    """Return what a reference of the form "#/..." refers to; None if that is not a schema."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    steps = unquote(reference[1:]).split("/")
    if steps[0]:  # an anchor
        return None
    value: Any = root
    holds: str | None = "schema"  # what the value is: "schemas" in a list or by name; None: unknown
    for step in steps[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if holds == "schema" and step in _VALUES:
            return None
        if isinstance(value, list) and step.isdecimal() and len(step) < 9:
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
        holds = _held(holds, step, value)
    return value if isinstance(value, (dict, bool)) and holds != "schemas" else None


def _held(holds: str | None, step: str, value: Any) -> str | None:
    """Return what a value is that one step leads to from one that is `holds`."""
    if holds == "schemas":
        return "schema"
    if holds is None:
        return None
    if step in MAPS or (step in LISTS and isinstance(value, list)):
        return "schemas"
    return "schema" if step in ONE else None
