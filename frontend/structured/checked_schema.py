"""Turn a client's JSON schema into one that the grammar library enforces as it should."""

import logging
from collections.abc import Collection
from typing import Any

from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.schemas.limits import nesting_depth
from headrace.frontend.structured.enforceable import make_enforceable
from headrace.frontend.structured.schema_walk import Schema, all_schemas, mapping
from headrace.frontend.structured.supported import compile_error
from headrace.protocol.limit_options import DEEPEST_SCHEMA

# Between the parts of JSON: a few spaces, or a line break and an indent. Bounded, because confused
# models repeat white space without end.
WHITESPACE = r"[ \t]{1,8}|\r?\n[ \t]{0,8}"
TOOL_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# The library's errors for schemas that refer to themselves in ways that it does not follow.
_LIMITS_OF_REFERENCES = ("circular references", "stack level exceeded")

_log = LimitedLog(logging.getLogger("headrace.frontend.checkers"))


def checked_schema(schema: Any, *, is_closed: bool = False) -> Schema:
    """Return a schema without keywords that exclude nothing.

    Raises ValueError, with the reason, if it is none or cannot be enforced.
    is_closed: whether objects may have only the properties that their schemas name.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError("a schema must be an object")
    _check_nesting(schema)
    left_out = make_enforceable(schema, is_lenient=False, is_closed=is_closed)
    note_left_out("a requested format", left_out)
    return schema


def tool_schema(schema: Schema) -> tuple[Schema, list[str]]:
    """Return the schema of a tool's arguments, or of one of them, and what was left out of it.

    Raises ValueError, with the reason, if it cannot be read.
    """
    _check_nesting(schema)
    left_out = make_enforceable(schema, is_lenient=True, is_closed=True)
    reason = compile_error(schema) if _combines_references(schema) else None
    if reason is not None and any(limit in reason for limit in _LIMITS_OF_REFERENCES):
        return _names_alone(schema), [*left_out, "$ref"]
    return schema, left_out


def _combines_references(schema: Schema) -> bool:
    """Return whether a schema has references with other keywords beside them."""
    schemas = all_schemas(schema)
    is_combined = any("allOf" in each or ("$ref" in each and len(each) > 1) for each in schemas)
    return is_combined and any("$ref" in each for each in schemas)


def _names_alone(schema: Schema) -> Schema:
    """Return a schema of the names of an object's properties, whatever their values are."""
    if schema.get("type") != "object":
        return {}
    kept: Schema = {
        key: schema[key] for key in ("required", "additionalProperties") if key in schema
    }
    if isinstance(kept.get("additionalProperties"), dict):
        del kept["additionalProperties"]
    return {
        "type": "object",
        "properties": dict.fromkeys(mapping(schema, "properties"), True),
        **kept,
    }


def _check_nesting(schema: Any) -> None:
    """Raise ValueError for a schema that is nested too deeply to be read."""
    if nesting_depth(schema, DEEPEST_SCHEMA) > DEEPEST_SCHEMA:
        raise ValueError(f"nested more than {DEEPEST_SCHEMA} deep")


def note_left_out(owner: str, keywords: Collection[str]) -> None:
    """Log the keywords that were left out of the schemas of a request."""
    if keywords:
        names = ", ".join(sorted(keywords))
        _log.warning(f"left out of the schemas of {owner}, as it cannot be enforced: {names}")
