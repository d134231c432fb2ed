"""Close the objects of a JSON schema: forbid properties that it does not name.

Several schemas may apply to one object: those of `allOf`, of an alternative, or of a reference with
other keywords beside it. Each names some of the properties, so that closing each by itself would
leave no valid object. Such an object is closed to the names of all of them together.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from headrace.frontend.structured.schema_walk import Schema, items, mapping, resolve

_MAX_PARTS = 1000  # schemas that apply to one object
_CONDITIONS = ("dependentSchemas", "else", "if", "not", "then")
_APPLICATORS = ("$ref", "allOf", "anyOf", "oneOf", *_CONDITIONS)
_APPLYING = frozenset((*_APPLICATORS, "dependencies"))
# Keywords that say something of a value's members.
_OF_ITS_OWN = (
    "additionalItems",
    "additionalProperties",
    "const",
    "dependencies",
    "dependentRequired",
    "enum",
    "items",
    "minProperties",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "required",
    "unevaluatedItems",
    "unevaluatedProperties",
)
# Keywords that hold schemas of members of a value.
_BY_NAME = ("patternProperties", "properties")
_MEMBERS = frozenset((*_BY_NAME, "additionalItems", "additionalProperties", "items", "prefixItems"))
# Where a member may also be described by another keyword, or under another name.
_OVERLAPPING = ("additionalProperties", "patternProperties")


def close_objects(root: Schema, *, closes_empty: bool = False) -> None:
    """Close the objects of a schema in place, unless it says otherwise.

    An object stays open if it cannot be told whether others would be valid, or if its schema has no
    `properties`.

    closes_empty: whether empty `properties` allow none; else they say nothing, as programs write
        them for objects with any names.
    """
    _Closer(root, closes_empty).run()


class _Closer:
    """Closes a schema. First it learns which schemas apply together with others."""

    def __init__(self, root: Schema, closes_empty: bool) -> None:
        self._root = root
        self._closes_empty = closes_empty
        self._shared: set[int] = set()  # schemas that apply together with others
        self._closable: dict[int, Schema] = {}

    def run(self) -> None:
        """Close the objects."""
        pending: list[tuple[Schema, bool]] = [(self._root, False)]
        seen: set[tuple[int, bool]] = set()
        while pending:
            schema, is_shared = pending.pop()
            if (id(schema), is_shared) in seen:
                continue
            seen.add((id(schema), is_shared))
            pending += self._visit(schema, is_shared)
        for schema in self._closable.values():
            applied = self._parts(schema, with_conditions=False)
            lists_values = any("const" in part or "enum" in part for part in applied)
            if id(schema) not in self._shared and not lists_values:
                _close(schema, self._parts(schema), self._closes_empty)

    def _visit(self, schema: Schema, is_shared: bool) -> Iterator[tuple[Schema, bool]]:
        """Note how an object of this schema may be closed. Yield the schemas to visit next.

        is_shared: whether other schemas apply to the same value, so that it must stay open.
        """
        alone = self._alternatives(schema)
        if alone is not None and not is_shared:
            yield from ((option, False) for option in alone)
            return
        parts = self._parts(schema)
        if is_shared:
            self._shared.add(id(schema))
        else:
            self._closable[id(schema)] = schema
        self._shared.update(id(part) for part in parts[1:])
        for member, is_described_twice in _members_of(parts):
            yield member, is_shared or is_described_twice

    def _alternatives(self, schema: Schema) -> list[Schema] | None:
        """Return the schemas that take this one's place, if it is no more than them."""
        used = [key for key in _APPLICATORS if key in schema]
        if len(used) != 1 or any(key in schema for key in _OF_ITS_OWN):
            return None
        if used[0] == "$ref":
            target = resolve(self._root, schema["$ref"])
            return [target] if isinstance(target, dict) else None
        options = items(schema, used[0])
        if used[0] in ("anyOf", "oneOf") or (used[0] == "allOf" and len(options) == 1):
            return [option for option in options if isinstance(option, dict)]
        return None

    def _parts(self, schema: Schema, *, with_conditions: bool = True) -> list[Schema]:
        """Return the schema and all that apply to the same value, or may do so."""
        if _APPLYING.isdisjoint(schema):
            return [schema]
        parts: dict[int, Schema] = {}
        pending = [schema]
        while pending and len(parts) < _MAX_PARTS:
            part = pending.pop()
            if id(part) in parts:
                continue
            parts[id(part)] = part
            applied = [resolve(self._root, part.get("$ref"))]
            for keyword in ("allOf", "anyOf", "oneOf"):
                applied += items(part, keyword)
            if with_conditions:
                applied += _conditional(part)
            pending += [each for each in applied if isinstance(each, dict)]
        return list(parts.values())


def _conditional(schema: Schema) -> list[Any]:
    """Return the schemas that apply to a value only under conditions, and their conditions."""
    schemas = [schema.get(keyword) for keyword in ("else", "if", "then")]
    return [
        *schemas,
        *mapping(schema, "dependentSchemas").values(),
        *mapping(schema, "dependencies").values(),
    ]


def _members_of(parts: Sequence[Schema]) -> Iterator[tuple[Schema, bool]]:
    """Yield the schemas of members, and whether others may describe the same members."""
    counts: dict[tuple[str, Any], int] = {}
    found = [(place, member) for part in parts for place, member in _members(part)]
    for place, _ in found:
        counts[place] = counts.get(place, 0) + 1
    arrays = sum(any(key in part for key in ("items", "prefixItems")) for part in parts)
    has_patterns = any("patternProperties" in part for part in parts)
    has_others = len(parts) > 1 and any(
        isinstance(part.get("additionalProperties"), dict) for part in parts
    )
    for place, member in found:
        is_of_object = place[0] in (*_OVERLAPPING, "properties")
        overlaps = (has_patterns or has_others) if is_of_object else arrays > 1
        yield member, overlaps or counts[place] > 1


def _members(schema: Schema) -> Iterator[tuple[tuple[str, Any], Schema]]:
    """Yield the schemas of a value's members, each with its place."""
    for keyword in _MEMBERS.intersection(schema):
        value = schema[keyword]
        places: Any = ((None, value),)
        if isinstance(value, list):
            places = enumerate(value)
        elif keyword in _BY_NAME and isinstance(value, dict):
            places = value.items()
        for place, member in places:
            if isinstance(member, dict):
                yield (keyword, place), member


def _close(schema: Schema, parts: Sequence[Schema], closes_empty: bool) -> None:
    """Allow the properties that the parts name, and no others, unless a part says otherwise."""
    if any(_says_otherwise(part) for part in parts) or len(parts) >= _MAX_PARTS:
        return
    patterns = {name: True for part in parts for name in mapping(part, "patternProperties")}
    names = dict.fromkeys(name for part in parts for name in _names(part))
    declared = [part["properties"] for part in parts if isinstance(part.get("properties"), dict)]
    if not (any(declared) or patterns or (closes_empty and declared)):
        return
    least = max((n for part in parts if isinstance(n := part.get("minProperties"), int)), default=0)
    if least > len(names) and not patterns:
        return
    own = mapping(schema, "properties")
    added = {name: True for name in names if name not in own}
    if added:
        schema["properties"] = {**own, **added}
    if patterns:
        schema["patternProperties"] = {**patterns, **mapping(schema, "patternProperties")}
    schema["additionalProperties"] = False
    schema.pop("unevaluatedProperties", None)


def _says_otherwise(schema: Schema) -> bool:
    """Return whether a schema says which other properties there may be."""
    return (
        "additionalProperties" in schema or schema.get("unevaluatedProperties", False) is not False
    )


def _names(schema: Schema) -> Iterator[str]:
    """Yield the names of properties that a schema mentions."""
    yield from mapping(schema, "properties")
    yield from (name for name in items(schema, "required") if isinstance(name, str))
    for keyword in ("dependentRequired", "dependencies"):
        for name, others in mapping(schema, keyword).items():
            yield name
            if isinstance(others, list):
                yield from (other for other in others if isinstance(other, str))
    yield from mapping(schema, "dependentSchemas")
