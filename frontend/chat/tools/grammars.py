"""Write the grammars that restrict tool calls to their functions' schemas, in llguidance's Lark."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.frontend.chat.tools.forced import ARGUMENTS, NAME
from headrace.frontend.chat.tools.parser import CallSyntax
from headrace.frontend.schemas.tools import FunctionDefinition

_ANY_TEXT = "TEXT: /(.|\\n)*/"
_TEXT_WITHOUT_CALL = "TEXT: /[ \\t\\r\\n]*([^{ \\t\\r\\n](.|\\n)*)?/"


def arguments_schema(function: FunctionDefinition) -> dict[str, Any]:
    """Return the schema of a call's arguments.

    It is an object, without properties if the function has no parameters.
    """
    if function.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "object", **function.parameters}


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
    options = []
    for function in functions:
        schema = arguments_schema(function) if function.strict else {"type": "object"}
        begin = _text_with_tokens(syntax.begin(function.name), token_ids)
        end = _text_with_tokens(syntax.end, token_ids)
        options.append(f"{begin} {_json_value(schema)} {end}")
    rules = _alternatives("call", options)
    if syntax.is_whole_text:
        more = ' ("; " call)*' if parallel else ""
        start = f"start: ({_text_with_tokens(syntax.start, token_ids)})? call{more} | TEXT"
        return "\n".join([start, *rules, _TEXT_WITHOUT_CALL])
    start = "start: (lead call)* TEXT" if parallel else "start: lead call | TEXT"
    if syntax.start in token_ids:
        lead = f"lead: TEXT {_text_with_tokens(syntax.start, token_ids)}"
    else:
        lead = f"lead[lazy]: TEXT {_quoted(syntax.start)}"
    return "\n".join([start, lead, *rules, _ANY_TEXT])


def _alternatives(name: str, options: Sequence[str]) -> list[str]:
    """Return a rule that matches any of the options, and one rule for each option."""
    names = [f"{name}_{number}" for number in range(len(options))]
    rules = [f"{rule}: {option}" for rule, option in zip(names, options, strict=True)]
    return [f"{name}: {' | '.join(names)}", *rules]


def _json_value(schema: Mapping[str, Any]) -> str:
    """Return a rule body for a JSON value that conforms to the schema.

    It is spaced as Python's json module does it: unbounded white space could go on forever.
    """
    spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    options = {"x-guidance": spacing}
    return "%json " + json.dumps({**schema, **options}, ensure_ascii=False)


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
