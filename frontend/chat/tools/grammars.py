"""Write the grammars that restrict tool calls to their functions' schemas, in llguidance's Lark."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.frontend.chat.tools.forced import ARGUMENTS, NAME
from headrace.frontend.chat.tools.parameter_grammars import ParameterRules
from headrace.frontend.chat.tools.parser import CallSyntax
from headrace.frontend.schemas.tools import FunctionDefinition
from headrace.frontend.structured.constraint import TOOL_SCHEMA_MARK

# Keywords that may allow properties which `properties` does not name.
_SAYING_MORE = (
    *("$ref", "additionalProperties", "allOf", "anyOf", "oneOf", "patternProperties"),
    *("if", "propertyNames", "required", "unevaluatedProperties"),
)
_ANY_TEXT = "TEXT: /(.|\\n)*/"
_OBJECT_START = '/(.|\\n)*\\{[ \\t\\r\\n]*"/'


def arguments_schema(function: FunctionDefinition) -> dict[str, Any]:
    """Return the schema of a call's arguments.

    It is an object, without properties if the function has no parameters.
    """
    schema = {"properties": {}} if function.parameters is None else dict(function.parameters)
    types = schema.get("type")
    if types is None or (isinstance(types, list) and "object" in types):
        schema["type"] = "object"
    if schema.get("properties") == {} and not any(key in schema for key in _SAYING_MORE):
        schema["additionalProperties"] = False
    return schema


def forced_arguments(function: FunctionDefinition) -> str:
    """Return a grammar of one call's arguments and nothing else."""
    return f"start: {_json_value(arguments_schema(function))}"


def forced_calls(functions: Sequence[FunctionDefinition], *, parallel: bool) -> str:
    """Return a grammar of a JSON list of calls, as ForcedCallsParser reads it.

    parallel: whether the list may hold several calls.
    """
    options = []
    for function in functions:
        begin = f'{{"{NAME}": {json.dumps(function.name, ensure_ascii=False)}, "{ARGUMENTS}": '
        schema = arguments_schema(function)
        options.append(f"{_quoted(begin)} {_json_value(schema)} {_quoted('}')}")
    more = ' (", " call)*' if parallel else ""
    return "\n".join([f'start: "[" call{more} "]"', *_alternatives("call", options)])


def strict_calls(
    functions: Sequence[FunctionDefinition],
    syntax: CallSyntax,
    token_ids: Mapping[str, int],
    *,
    parallel: bool,
) -> str:
    """Return a grammar of free text with calls of these functions.

    Calls must name one of the functions, and the arguments of strict functions must conform to
    their schemas.
    token_ids: ids of the delimiters that are single tokens; other delimiters are matched by
        character.
    """
    options, rules = [], ParameterRules(_json_value, _text_with_tokens, token_ids)
    for function in functions:
        begin = _text_with_tokens(_begin(syntax, function.name), token_ids)
        end = _text_with_tokens(syntax.end, token_ids)
        options.append(f"{begin} {_strict_arguments(function, syntax, rules)} {end}")
    others = [_text_with_tokens(other, token_ids) for other in syntax.others]
    written = [*_alternatives("call", options), *rules.written]
    if others:
        written += _alternatives("other", others)
    return "\n".join([*_free_text(syntax, token_ids, parallel=parallel), *written, _ANY_TEXT])


def _begin(syntax: CallSyntax, name: str) -> str:
    begin = syntax.begin(name)
    return begin.removeprefix('{"') if syntax.is_whole_text else begin


def _strict_arguments(
    function: FunctionDefinition, syntax: CallSyntax, rules: ParameterRules
) -> str:
    schema = arguments_schema(function)
    if syntax.parameters is None:
        return _json_value(schema if function.strict else {"type": "object"})
    return (
        rules.body(schema, syntax.parameters) if function.strict else rules.any(syntax.parameters)
    )


def _free_text(syntax: CallSyntax, token_ids: Mapping[str, int], *, parallel: bool) -> list[str]:
    """Return the rules of free text and of what begins a call in it."""
    marks = [token_ids[mark] for mark in syntax.marks if mark in token_ids]
    if syntax.is_whole_text and syntax.start in token_ids:
        marks.append(token_ids[syntax.start])
    before = "mark* " if marks else ""
    others = f"({before}lead other)* " if syntax.others else ""
    if parallel:
        kinds = "(call | other)" if syntax.others else "call"
        start = f"start: ({before}lead {kinds})* {before}TEXT"
    else:
        start = f"start: {others}({before}lead call | {before}TEXT)"
    rules = [start]
    if marks:
        rules.append("mark: TEXT (" + " | ".join(f"<[{mark}]>" for mark in marks) + ")")
    if syntax.is_whole_text:
        return [*rules, f"lead[lazy]: {_OBJECT_START}"]
    if syntax.start in token_ids:
        return [*rules, f"lead: TEXT {_text_with_tokens(syntax.start, token_ids)}"]
    return [*rules, f"lead[lazy]: TEXT {_quoted(syntax.start)}"]


def _alternatives(name: str, options: Sequence[str]) -> list[str]:
    """Return a rule that matches any of the options, and one rule for each option."""
    names = [f"{name}_{number}" for number in range(len(options))]
    rules = [f"{rule}: {option}" for rule, option in zip(names, options, strict=True)]
    return [f"{name}: {' | '.join(names)}", *rules]


def _json_value(schema: Mapping[str, Any]) -> str:
    """Return a rule body for a JSON value of the schema; a checker completes it."""
    return TOOL_SCHEMA_MARK + json.dumps(schema, ensure_ascii=False) + TOOL_SCHEMA_MARK


def _text_with_tokens(text: str, token_ids: Mapping[str, int]) -> str:
    """Return a rule body for a text that may contain single-token delimiters."""
    if not token_ids:
        return _quoted(text)
    pattern = "|".join(map(re.escape, token_ids))
    parts = re.split(f"({pattern})", text)
    rendered = [f"<[{token_ids[p]}]>" if p in token_ids else _quoted(p) for p in parts if p]
    return " ".join(rendered) or '""'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
