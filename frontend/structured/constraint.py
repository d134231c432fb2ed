"""What form an output must have, as its request says it."""

import json
from dataclasses import dataclass
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.structured import (
    MAX_DEFINITION_CHARS,
    ResponseFormat,
    StructuredOutputs,
)

MAX_DEPTH = 96  # of JSON within JSON; the reader of schemas gives up at 128
_KINDS = ("json_definition", "regex", "choice", "grammar", "json_object", "structural_tag")
_ANY_OBJECT = '{"type":"object"}'


@dataclass(frozen=True, slots=True)
class Constraint:
    """kind: json_schema, json_object, regex, choice, grammar or structural_tag.

    definition: the schema as JSON, the regular expression, the choices as a list in JSON, a grammar
        in Lark or GBNF, or the tags as JSON.
    any_whitespace: whether JSON may have whitespace between its parts.
    whitespace_pattern: a regular expression that each such whitespace must match.
    is_closed: whether objects have only the properties that their schemas name.
    field: what errors call it.
    """

    kind: str
    definition: str
    field: str
    any_whitespace: bool = True
    whitespace_pattern: str | None = None
    is_closed: bool = False


def json_schema(schema: Any, field: str, any_whitespace: bool = True) -> Constraint:
    """A text that conforms to a JSON schema. BadRequest if that is too large or too deep."""
    return Constraint("json_schema", _dumped(schema, field), field, any_whitespace)


def lark_constraint(grammar: str, field: str) -> Constraint:
    """A text of a grammar in Lark or GBNF. BadRequest if that is too long."""
    return Constraint("grammar", _bounded(grammar, field), field)


def request_constraint(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None
) -> Constraint | None:
    """What a request's two fields say; None if anything goes. BadRequest if they do not fit."""
    by_format = None if response_format is None else _of_format(response_format)
    if structured is None:
        return by_format
    given = [kind for kind in _KINDS if getattr(structured, kind) not in (None, False)]
    if len(given) > 1 or (given and by_format is not None):
        raise BadRequest(
            "structured_outputs: only one kind of constraint can be used, response_format"
            " included.",
            "structured_outputs",
        )
    if not given and by_format is None:
        if response_format is not None:  # "text", with options that have no effect then
            return None
        names = ", ".join(kind.removesuffix("_definition") for kind in _KINDS)
        raise BadRequest(f"structured_outputs needs one of {names}.", "structured_outputs")
    found = by_format or _of_outputs(structured, given[0])
    return Constraint(
        found.kind,
        found.definition,
        found.field,
        not structured.disable_any_whitespace,
        structured.whitespace_pattern,
        structured.disable_additional_properties,
    )


def _of_format(given: ResponseFormat) -> Constraint | None:
    field = "response_format"
    match given.type:
        case "text":
            return None
        case "json_object":
            return Constraint("json_object", _ANY_OBJECT, field)
        case "json_schema":
            if given.json_schema is None or given.json_schema.definition is None:
                raise BadRequest(f"{field}: json_schema must hold a schema.", field)
            return json_schema(given.json_schema.definition, field)
        case _:
            tags = given.model_dump(by_alias=True, exclude_none=True)
            return Constraint("structural_tag", _dumped(tags, field), field)


def _of_outputs(given: StructuredOutputs, kind: str) -> Constraint:
    value = getattr(given, kind)
    field = "structured_outputs." + kind.removesuffix("_definition")
    match kind:
        case "json_definition":
            return json_schema(_parsed(value, field), field)
        case "json_object":
            return Constraint("json_object", _ANY_OBJECT, field)
        case "choice":
            return Constraint("choice", _dumped(value, field), field)
        case "structural_tag":
            return Constraint("structural_tag", _dumped(_parsed(value, field), field), field)
        case _:
            return Constraint(kind, _bounded(value, field), field)


def _parsed(value: Any, field: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{field} must be JSON.", field) from error


def check_depth(value: Any, field: str) -> None:
    """BadRequest for JSON that its readers and writers would give up on."""
    if _depth(value) > MAX_DEPTH:
        raise BadRequest(f"{field}: nested more than {MAX_DEPTH} deep.", field)


def _dumped(value: Any, field: str) -> str:
    check_depth(value, field)
    return _bounded(json.dumps(value, ensure_ascii=False, separators=(",", ":")), field)


def _bounded(text: str, field: str) -> str:
    if len(text) > MAX_DEFINITION_CHARS:
        raise BadRequest(f"{field}: longer than {MAX_DEFINITION_CHARS} characters.", field)
    return text


def _depth(value: Any) -> int:
    """How deep lists and objects are nested; no recursion, and no further than it matters."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        depth += 1
        level = [item for item in inner if isinstance(item, (dict, list))]
    return depth
