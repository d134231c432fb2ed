"""The constraint that a request puts on the form of its outputs."""

import json
from dataclasses import dataclass
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.limits import limit_of, nesting_depth
from headrace.frontend.schemas.structured import ResponseFormat, StructuredOutputs
from headrace.protocol.grammar import GrammarKind

TOOL_SCHEMA_MARK = "\0"  # no request holds one, and JSON escapes it
_OUTPUT_FIELDS = ("json_definition", "regex", "choice", "grammar", "json_object", "structural_tag")
_ANY_OBJECT = '{"type":"object"}'


@dataclass(frozen=True, slots=True)
class Constraint:
    """A form that an output must match.

    definition: the schema as JSON, the regular expression, the choices as a JSON list, a grammar in
        Lark or GBNF, or the structural tags as JSON.
    field: the request's field, for errors.
    any_whitespace: whether JSON may have whitespace between its parts.
    whitespace_pattern: a regular expression that each such whitespace must match.
    is_closed: whether objects may have only the properties that their schemas name.
    has_tool_schemas: whether the definition is a grammar with the schemas of tools' arguments, each
        between two TOOL_SCHEMA_MARKs.
    """

    kind: GrammarKind
    definition: str
    field: str
    any_whitespace: bool = True
    whitespace_pattern: str | None = None
    is_closed: bool = False
    has_tool_schemas: bool = False


def json_schema(schema: Any, field: str, any_whitespace: bool = True) -> Constraint:
    """Return the constraint of a JSON schema.

    Raises BadRequest if it is too long or nested too deeply.
    """
    return Constraint("json_schema", _to_json(schema, field), field, any_whitespace)


def lark_constraint(grammar: str, field: str) -> Constraint:
    """Return the constraint of a Lark or GBNF grammar. Raises BadRequest if it is too long."""
    return Constraint("grammar", _check_length(grammar, field, "max_grammar_chars"), field)


def tools_constraint(grammar: str) -> Constraint:
    """Return the constraint of a grammar of tool calls. Raises BadRequest if it is too long.

    grammar: in Lark, with the schemas of arguments between TOOL_SCHEMA_MARKs.
    """
    text = _check_length(grammar, "tools", "max_schema_chars")
    return Constraint("grammar", text, "tools", has_tool_schemas=True)


def request_constraint(
    response_format: ResponseFormat | None, outputs: StructuredOutputs | None
) -> Constraint | None:
    """Return the constraint of a request's two fields; None if the output is free.

    Raises BadRequest if the fields exclude each other.
    """
    format_constraint = None if response_format is None else _format_constraint(response_format)
    if outputs is None:
        return format_constraint
    set_fields = [name for name in _OUTPUT_FIELDS if getattr(outputs, name) not in (None, False)]
    if len(set_fields) > 1 or (set_fields and format_constraint is not None):
        raise BadRequest(
            "structured_outputs: only one constraint can be used, including response_format.",
            "structured_outputs",
        )
    if not set_fields and format_constraint is None:
        if response_format is not None:  # "text": the options have no effect
            return None
        names = ", ".join(name.removesuffix("_definition") for name in _OUTPUT_FIELDS)
        raise BadRequest(f"structured_outputs needs one of {names}.", "structured_outputs")
    constraint = format_constraint or _outputs_constraint(outputs, set_fields[0])
    return Constraint(
        constraint.kind,
        constraint.definition,
        constraint.field,
        not outputs.disable_any_whitespace,
        outputs.whitespace_pattern,
        outputs.disable_additional_properties,
    )


def _format_constraint(response_format: ResponseFormat) -> Constraint | None:
    field = "response_format"
    match response_format.type:
        case "text":
            return None
        case "json_object":
            return Constraint("json_object", _ANY_OBJECT, field)
        case "json_schema":
            if (
                response_format.json_schema is None
                or response_format.json_schema.definition is None
            ):
                raise BadRequest(f"{field}: json_schema must hold a schema.", field)
            return json_schema(response_format.json_schema.definition, field)
        case _:
            tags = response_format.model_dump(by_alias=True, exclude_none=True)
            return Constraint("structural_tag", _to_json(tags, field), field)


def _outputs_constraint(outputs: StructuredOutputs, field_name: str) -> Constraint:
    value = getattr(outputs, field_name)
    field = "structured_outputs." + field_name.removesuffix("_definition")
    match field_name:
        case "json_definition":
            return json_schema(_from_json(value, field), field)
        case "json_object":
            return Constraint("json_object", _ANY_OBJECT, field)
        case "choice":
            return Constraint("choice", _to_json(value, field), field)
        case "grammar":
            return lark_constraint(value, field)
        case "structural_tag":
            return Constraint("structural_tag", _to_json(_from_json(value, field), field), field)
        case _:
            return Constraint("regex", _check_length(value, field, "max_regex_chars"), field)


def _from_json(value: Any, field: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{field} must be JSON.", field) from error


def check_depth(value: Any, field: str) -> None:
    """Raise BadRequest for JSON that is nested too deeply for parsers and serializers."""
    most = limit_of("max_schema_depth")
    if nesting_depth(value, most) > most:
        raise BadRequest(f"{field}: nested more than {most} deep.", field)


def check_nodes(value: Any, field: str) -> None:
    """Raise BadRequest for JSON of too many lists and objects: each may become a rule of a
    grammar."""
    most = limit_of("max_schema_nodes")
    pending, nodes = [value], 0
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        else:
            continue
        nodes += 1
        if nodes > most:
            raise BadRequest(f"{field}: holds more than {most} lists and objects.", field)


def _to_json(value: Any, field: str) -> str:
    check_depth(value, field)
    check_nodes(value, field)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _check_length(text, field, "max_schema_chars")


def _check_length(text: str, field: str, limit: str) -> str:
    if len(text) > (most := limit_of(limit)):
        raise BadRequest(f"{field}: longer than {most} characters.", field)
    return text
