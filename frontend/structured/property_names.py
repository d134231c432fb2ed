"""Enforce `propertyNames` by keywords that grammars know.

Names that are listed become properties, and a pattern becomes a pattern property; then no others
are allowed.
"""

import json
import re
from typing import Any

from headrace.frontend.structured.schema_walk import Schema, items, mapping, resolve
from headrace.frontend.structured.supported import is_supported

_MAX_REFERENCES = 16
_MAX_ADDED_CHARS = 400_000
_ANNOTATIONS = ("$comment", "description", "title", "type")


def enforce_property_names(root: Schema, schema: Schema) -> None:
    """Replace a schema's `propertyNames`, in place, where that is possible."""
    if "propertyNames" not in schema:
        return
    rule = _resolved(root, schema["propertyNames"])
    if _allows_all(rule):
        del schema["propertyNames"]
        return
    names = _listed(root, rule)
    if names is not None:
        _allow_names(schema, names)
        return
    pattern = _pattern(rule) if isinstance(rule, dict) else None
    if pattern is None or "patternProperties" in schema:
        return
    if is_supported({"type": "string", "pattern": pattern}):
        _allow_pattern(schema, pattern)


def _allows_all(rule: Any) -> bool:
    """Return whether any name conforms to the rule: names are strings anyway."""
    if not isinstance(rule, dict):
        return rule is True
    types = rule.get("type", "string")
    has_strings = types == "string" or (isinstance(types, list) and "string" in types)
    return has_strings and set(rule) <= set(_ANNOTATIONS)


def _resolved(root: Schema, rule: Any) -> Any:
    """Return the schema that stands behind references and lists of one schema."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(rule, dict):
            return rule
        constraints = {key for key in rule if key not in _ANNOTATIONS}
        if constraints == {"$ref"} and (target := resolve(root, rule["$ref"])) is not None:
            rule = target
        elif constraints == {"allOf"} and len(items(rule, "allOf")) == 1:
            rule = rule["allOf"][0]
        else:
            return rule
    return rule


def _listed(root: Schema, rule: Any) -> list[str] | None:
    """Return the names that conform to the rule, if it lists them."""
    if rule is False:
        return []
    if not isinstance(rule, dict):
        return None
    constraints = {key for key in rule if key not in _ANNOTATIONS}
    if constraints == {"enum"}:
        return [name for name in items(rule, "enum") if isinstance(name, str)]
    if constraints == {"const"}:
        return [rule["const"]] if isinstance(rule["const"], str) else []
    if constraints in ({"anyOf"}, {"oneOf"}):
        names: list[str] = []
        for option in [*items(rule, "anyOf"), *items(rule, "oneOf")] or [{}]:
            listed = _listed(root, _resolved(root, option))
            if listed is None:
                return None
            names += listed
        return names
    return None


def _pattern(rule: Schema) -> str | None:
    """Return the regular expression of the rule, if it is no more than that."""
    constraints = {key for key in rule if key not in _ANNOTATIONS}
    pattern = rule.get("pattern")
    if constraints == {"pattern"} and isinstance(pattern, str):
        return pattern
    low, high = rule.get("minLength", 0), rule.get("maxLength", "")
    if not constraints or not constraints <= {"minLength", "maxLength"}:
        return None
    are_counts = isinstance(low, int) and (high == "" or isinstance(high, int))
    return f"^(.|\\n){{{low},{high}}}$" if are_counts else None


def _allow_names(schema: Schema, names: list[str]) -> None:
    """Allow no properties but these, and no others than the schema allowed before."""
    others = schema.get("additionalProperties", True)
    properties = dict(mapping(schema, "properties"))
    allowed = dict.fromkeys(names)
    if not _add_names(schema, properties, list(allowed), others):
        return
    for name in list(properties):
        if name not in allowed:
            properties[name] = False
    schema["properties"] = properties
    schema["additionalProperties"] = False
    del schema["propertyNames"]


def _add_names(schema: Schema, properties: Schema, names: list[str], others: Any) -> bool:
    """Give each listed name a schema: that of the patterns that it matches, or that of the others.

    Returns False if a pattern cannot be read, or if the schema would become too large.
    """
    patterns = mapping(schema, "patternProperties")
    if len(names) * len(json.dumps([others, *patterns.values()])) > _MAX_ADDED_CHARS:
        return False
    for name in names:
        if name in properties:
            continue
        try:
            matching = [rule for pattern, rule in patterns.items() if re.search(pattern, name)]
        except re.error:
            return False
        if matching or others is not False:
            properties[name] = {"allOf": matching} if matching else others
    schema.pop("patternProperties", None)
    return True


def _allow_pattern(schema: Schema, pattern: str) -> None:
    """Allow no properties but those whose names match the pattern."""
    properties = dict(mapping(schema, "properties"))
    try:
        unmatched = [name for name in properties if not re.search(pattern, name)]
    except re.error:
        return
    for name in unmatched:
        properties[name] = False
    others = schema.pop("additionalProperties", True)
    if properties:
        schema["properties"] = properties
    if others is not False:
        schema["patternProperties"] = {pattern: others}
    schema["additionalProperties"] = False
    del schema["propertyNames"]
