"""Make a JSON schema one that the grammar library can enforce.

Keywords that exclude nothing are dropped. Others that cannot be enforced are left out where a
schema is lenient, as those of tools are; elsewhere the library's error names them.
"""

import math
from collections.abc import Iterable
from typing import Any

from headrace.frontend.structured.alternatives import replace_one_of
from headrace.frontend.structured.closing import close_objects
from headrace.frontend.structured.miswritten import mend
from headrace.frontend.structured.property_names import enforce_property_names
from headrace.frontend.structured.schema_walk import Schema, all_schemas, items, mapping, resolve
from headrace.frontend.structured.supported import is_supported, reason_against

_COUNTS = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")
# Longer than any output.
_MAX_COUNT = 2**31
_NOT_ENFORCED = (
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
)
_KEEPS_NULL = ("const", "default", "example", "examples")
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_SCHEMA_DIALECTS = ("http://json-schema.org/", "https://json-schema.org/")
# Smaller bounds need no check.
_SMALL_NUMBER = 1e15


def make_enforceable(root: Schema, *, is_lenient: bool, is_closed: bool) -> list[str]:
    """Change a schema in place. Return the keywords that were left out, each once.

    is_lenient: whether keywords that cannot be enforced are left out.
    is_closed: whether objects may have only the properties that their schemas name.
    Raises ValueError, which names the keyword, for others that the library would not name.
    """
    left_out: set[str] = set()
    has_ids = False
    schemas = all_schemas(root)
    for schema in schemas:
        has_ids = has_ids or "$id" in schema
        if is_lenient:
            _drop_nulls(schema)
            mend(schema)
        _drop_annotations(schema)
        enforce_property_names(root, schema)
    if is_closed:
        close_objects(root, closes_empty=not is_lenient)
    for schema in all_schemas(root):
        _drop_what_excludes_nothing(schema, left_out)
        replace_one_of(root, schema, is_lenient=is_lenient, left_out=left_out)
        if is_lenient:
            _leave_out(root, schema, has_ids, left_out)
        else:
            _narrow(schema, left_out)
        _fit_bounds(schema, is_lenient, left_out)
    for schema in [] if is_lenient else all_schemas(root):
        if _leads_nowhere(root, schema, has_ids):
            raise ValueError("a '$ref' leads to no schema within this one")
        _check_patterns(schema)
    return sorted(left_out)


def _drop_nulls(schema: Schema) -> None:
    """Drop keywords that a program has written without a value."""
    for keyword in [key for key, value in schema.items() if value is None]:
        if keyword not in _KEEPS_NULL:
            del schema[keyword]


def _drop_annotations(schema: Schema) -> None:
    for keyword in ("$recursiveAnchor", "$dynamicAnchor"):
        schema.pop(keyword, None)
    dialect = schema.get("$schema")
    if isinstance(dialect, str) and not dialect.startswith(_SCHEMA_DIALECTS):
        del schema["$schema"]


def _drop_what_excludes_nothing(schema: Schema, left_out: set[str]) -> None:
    form = schema.get("format")
    if isinstance(form, str) and not is_supported({"type": "string", "format": form[:100]}):
        del schema["format"]  # JSON Schema leaves it to each reader which formats it knows
        left_out.add("format")
    for keyword in ("unevaluatedItems", "unevaluatedProperties"):
        if schema.get(keyword) in (True, {}):
            del schema[keyword]
    for keyword in ("dependencies", "dependentRequired", "dependentSchemas"):
        if schema.get(keyword) == {}:
            del schema[keyword]
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    if schema.get("not") is False:
        del schema["not"]
    if "if" not in schema or not ("then" in schema or "else" in schema):
        _pop(schema, "if", "then", "else")
    if schema.get("minContains") == 0 and "maxContains" not in schema:
        _pop(schema, "contains")
    if "contains" not in schema:
        _pop(schema, "minContains", "maxContains")
    _fit_counts(schema)


def _pop(schema: Schema, *keywords: str) -> None:
    for keyword in keywords:
        schema.pop(keyword, None)


def _fit_counts(schema: Schema) -> None:
    """Write whole numbers as integers, and drop limits that no output reaches."""
    for keyword in _COUNTS:
        count = schema.get(keyword)
        if isinstance(count, float) and count.is_integer():
            count = schema[keyword] = int(count)
        if not isinstance(count, int):
            continue
        is_beyond = keyword.startswith("max") and count > _MAX_COUNT
        if is_beyond or (keyword == "minProperties" and count == 0):
            del schema[keyword]


def _leave_out(root: Schema, schema: Schema, has_ids: bool, left_out: set[str]) -> None:
    """Leave out what the library cannot enforce."""
    for keyword in _NOT_ENFORCED:
        if keyword in schema:
            del schema[keyword]
            left_out.add(keyword)
    if _leads_nowhere(root, schema, has_ids):
        del schema["$ref"]
        left_out.add("$ref")
    if "pattern" in schema and _why_not_pattern(schema["pattern"]) is not None:
        del schema["pattern"]
        left_out.add("pattern")
    _leave_out_property_patterns(schema, left_out)
    if "multipleOf" in schema and not is_supported({"multipleOf": schema["multipleOf"]}):
        del schema["multipleOf"]
        left_out.add("multipleOf")
    for keyword in ("minLength", "maxLength"):
        if keyword in schema and not is_supported({"type": "string", keyword: schema[keyword]}):
            del schema[keyword]
            left_out.add(keyword)
    if not isinstance(schema.get("format", ""), str):
        del schema["format"]
    _leave_out_property_counts(schema, left_out)


def _leads_nowhere(root: Schema, schema: Schema, has_ids: bool) -> bool:
    """Return whether a schema refers to another document, or to nothing."""
    reference = schema.get("$ref")
    if reference is None or resolve(root, reference) is not None:
        return False
    is_pointer = isinstance(reference, str) and reference.startswith("#/")
    return is_pointer or not isinstance(reference, str) or not (has_ids or reference[:1] == "#")


def _leave_out_property_patterns(schema: Schema, left_out: set[str]) -> None:
    patterns = mapping(schema, "patternProperties")
    kept = {
        pattern: rule for pattern, rule in patterns.items() if _why_not_pattern(pattern) is None
    }
    if len(kept) > 1 and not is_supported({"type": "object", "patternProperties": _trues(kept)}):
        kept = {}  # the library needs to know that no name matches two of them
    if len(kept) < len(patterns):
        left_out.add("patternProperties")
        schema["patternProperties"] = kept
        schema["additionalProperties"] = True  # names that would have matched must stay possible


def _leave_out_property_counts(schema: Schema, left_out: set[str]) -> None:
    keywords = ("minProperties", "maxProperties")
    counts: Schema = {keyword: schema[keyword] for keyword in keywords if keyword in schema}
    if not counts:
        return
    properties, others = mapping(schema, "properties"), schema.get("additionalProperties")
    shape: Schema = {
        "type": "object",
        "properties": _trues(properties),
        "required": items(schema, "required"),
        "additionalProperties": others is not False,
        **counts,
    }
    if not is_supported(shape):
        for keyword in counts:
            del schema[keyword]
            left_out.add(keyword)


def _trues(names: Iterable[str]) -> Schema:
    return dict.fromkeys(names, True)


def _why_not_pattern(pattern: Any) -> str | None:
    return reason_against({"type": "string", "pattern": pattern})


def _narrow(schema: Schema, left_out: set[str]) -> None:
    """Drop what other keywords make dispensable of that which cannot be enforced.

    That is an alternative beside others, since an output may have any of them, and a pattern beside
    a format that is enforced, as programs write it that spell formats out.
    """
    options = items(schema, "anyOf")
    enforced = [option for option in options if not _has_odd_pattern(option)]
    if enforced:
        schema["anyOf"] = enforced
    if _has_odd_pattern(schema) and is_supported({"format": schema.get("format")}):
        del schema["pattern"]
        left_out.add("pattern")


def _has_odd_pattern(schema: Any) -> bool:
    """Return whether a schema has a pattern that the library cannot enforce."""
    if not isinstance(schema, dict) or not isinstance(schema.get("pattern"), str):
        return False
    return _why_not_pattern(schema["pattern"]) is not None


def _check_patterns(schema: Schema) -> None:
    """Raise ValueError for a pattern that the library cannot enforce, naming the keyword."""
    if "pattern" in schema and (reason := _why_not_pattern(schema["pattern"])) is not None:
        raise ValueError(f"'pattern' cannot be enforced: {reason}")
    for pattern in mapping(schema, "patternProperties"):
        if (reason := _why_not_pattern(pattern)) is not None:
            raise ValueError(f"'patternProperties' cannot be enforced: {reason}")


def _fit_bounds(schema: Schema, is_lenient: bool, left_out: set[str]) -> None:
    """Drop bounds that no number in an output exceeds; then those that cannot be enforced.

    Raises ValueError for the latter if the schema is not lenient.
    """
    for keyword in _BOUNDS:
        bound = schema.get(keyword)
        if isinstance(bound, bool) or not isinstance(bound, (int, float)):
            continue
        if abs(bound) < _SMALL_NUMBER:
            continue
        if _bounds_are_supported(schema, keyword):
            continue
        is_outward = bound < 0 if "inimum" in keyword else bound > 0
        if not is_outward and not is_lenient:
            raise ValueError(f"{keyword!r} cannot be enforced: {_shown(bound)} is too large")
        del schema[keyword]
        if not is_outward:
            left_out.add(keyword)


def _bounds_are_supported(schema: Schema, keyword: str) -> bool:
    bound = schema[keyword]
    if isinstance(bound, float) and not math.isfinite(bound):
        return False
    return all(is_supported({"type": kind, keyword: bound}) for kind in _number_types(schema))


def _number_types(schema: Schema) -> list[str]:
    """Return the types of numbers that the schema allows."""
    types = schema.get("type", ["integer", "number"])
    types = types if isinstance(types, list) else [types]
    return [kind for kind in ("integer", "number") if kind in types] or ["number"]


def _shown(bound: float) -> str:
    return f"{bound:.3g}" if abs(bound) < 1e300 else "it"
