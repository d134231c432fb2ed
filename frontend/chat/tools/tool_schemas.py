"""Type the values of calls by the schemas of a request's tools.

Some formats write all values as text between tags; what `5` or `true` means is in the schema.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from headrace.frontend.chat.tools.json_repair import repaired_json

_MAX_SCHEMAS = 200  # that are looked at for the types of one parameter
_ALIASES = {
    **dict.fromkeys(("str", "text", "char", "varchar", "enum"), "string"),
    **dict.fromkeys(("int", "int32", "int64", "uint", "uint32", "uint64", "long"), "integer"),
    **dict.fromkeys(("float", "float32", "float64", "double"), "number"),
    "bool": "boolean",
    "dict": "object",
    **dict.fromkeys(("list", "arr", "tuple", "sequence"), "array"),
}
_VALUE_TYPES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}

JSON_TYPES = frozenset(_VALUE_TYPES.values())
STRING = frozenset({"string"})


class ToolSchemas:
    """The schemas of functions' arguments. parameters: the schema of each, by its name."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self._types: dict[tuple[str, str], frozenset[str]] = {}

    def __contains__(self, function: str) -> bool:
        return function in self._parameters

    def types(
        self, function: str, parameter: str, unknown: frozenset[str] = STRING
    ) -> frozenset[str]:
        """Return the JSON types that a parameter may have.

        unknown: the types of a parameter about which nothing is known.
        """
        found = self._types.get((function, parameter))
        if found is None:
            root = self._parameters.get(function)
            schema = _member(_member(root, "properties"), parameter)
            if schema is None:
                schema = _member(root, "additionalProperties")
            found = schema_types(schema, root, unknown=frozenset())
            self._types[function, parameter] = found
        return found or unknown

    def parameters(self, function: str) -> Any:
        """Return the schema of a function's arguments; None if it is not known."""
        return self._parameters.get(function)


NO_SCHEMAS = ToolSchemas({})


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


class SchemaParts(NamedTuple):
    """The schemas of what a value holds. items: that of an array's values."""

    properties: Mapping[str, Any]
    items: Any


def schema_types(schema: Any, root: Any, unknown: frozenset[str] = STRING) -> frozenset[str]:
    """Return the types that a schema names.

    root: the schema that references are relative to. unknown: the types where none is named.
    """
    types: set[str] = set()
    for one in _each_schema(schema, root):
        types |= _own_types(one)
    return frozenset(types) or unknown


def schema_parts(schema: Any, root: Any) -> SchemaParts:
    """Return the schemas of a value's parts, wherever in its schema they stand."""
    properties: dict[str, Any] = {}
    items = None
    for one in _each_schema(schema, root):
        own = one.get("properties")
        properties |= own if isinstance(own, Mapping) else {}
        items = one.get("items") if items is None else items
    return SchemaParts(properties, items)


def _each_schema(schema: Any, root: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a schema, its alternatives and what they refer to, up to a number."""
    waiting, left = [schema], _MAX_SCHEMAS
    while waiting and left:
        left -= 1
        one = waiting.pop()
        if not isinstance(one, Mapping):
            continue
        yield one
        for key in ("anyOf", "oneOf", "allOf"):
            options = one.get(key)
            waiting += options[:left] if isinstance(options, list) else []
        if isinstance(one.get("$ref"), str):
            waiting.append(_referred(one["$ref"], root))


def _own_types(schema: Mapping[str, Any]) -> set[str]:
    named = schema.get("type")
    names = named if isinstance(named, list) else [named]
    lowered = [name.strip().lower() for name in names if isinstance(name, str)]
    types = {_ALIASES.get(name, name) for name in lowered}
    if types:
        return types & JSON_TYPES
    values = list(schema["enum"]) if isinstance(schema.get("enum"), list) else []
    values += [schema["const"]] if "const" in schema else []
    types = {_VALUE_TYPES[type(value)] for value in values if type(value) in _VALUE_TYPES}
    if isinstance(schema.get("properties"), Mapping):
        types.add("object")
    if "items" in schema:
        types.add("array")
    return types


def _referred(reference: str, root: Any) -> Any:
    """Return the schema that a reference within `root` names; None if there is none."""
    if not reference.startswith("#/"):
        return None
    found = root
    for part in reference[2:].split("/")[:20]:
        found = _member(found, part.replace("~1", "/").replace("~0", "~"))
    return found


def json_value(text: str, types: frozenset[str]) -> str:
    """Return the JSON of a value that was written as text.

    It has one of the types, if the text can be read as one; else it is a string.
    """
    stripped = text.strip()
    for name, read in _READERS.items():
        if name in types and (written := read(stripped)) is not None:
            return written
    if types.isdisjoint(STRING) and (written := _any_json(stripped)) is not None:
        return written
    return json.dumps(text, ensure_ascii=False)


def _null(text: str) -> str | None:
    return "null" if text.lower() == "null" else None


def _boolean(text: str) -> str | None:
    return {"true": "true", "1": "true", "false": "false", "0": "false"}.get(text.lower())


def _integer(text: str) -> str | None:
    return json.dumps(value) if isinstance(value := _number_of(text), int) else None


def _number(text: str) -> str | None:
    return None if (value := _number_of(text)) is None else json.dumps(value)


def _number_of(text: str) -> int | float | None:
    """Return the number that a text is; integers for values such as 3.0."""
    if not text.isascii() or "_" in text:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _container(text: str, kind: type) -> str | None:
    value = _parsed(text)
    if value is _NOT_JSON and text[:1] == ("{" if kind is dict else "["):
        value = _parsed(repaired_json(text))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, kind) else None


def _any_json(text: str) -> str | None:
    """Return JSON that is of none of the types that were asked for."""
    value = _parsed(text)
    return None if value is _NOT_JSON else json.dumps(value, ensure_ascii=False)


_NOT_JSON = object()


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text, strict=False, parse_constant=_reject)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return _NOT_JSON
    return value


def _reject(constant: str) -> Any:
    raise ValueError(constant)


# In the order in which they are tried.
_READERS: dict[str, Callable[[str], str | None]] = {
    "null": _null,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": lambda text: _container(text, dict),
    "array": lambda text: _container(text, list),
}
