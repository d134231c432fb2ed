"""The grammars that hold calls to their functions' schemas, in Lark as llguidance reads it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.frontend.chat.tools.forced import ARGUMENTS, NAME
from headrace.frontend.chat.tools.parser import CallTag
from headrace.frontend.schemas.tools import FunctionDefinition

_FREE = "TEXT: /(.|\\n)*/"
_FREE_UNLESS_CALL = "TEXT: /[ \\t\\r\\n]*([^{ \\t\\r\\n](.|\\n)*)?/"


def arguments_schema(function: FunctionDefinition) -> dict[str, Any]:
    """What the arguments of a call must conform to: an object, without properties if the function
    has no parameters."""
    if function.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "object", **function.parameters}


def forced_arguments(function: FunctionDefinition) -> str:
    """The arguments of a call, and nothing else."""
    return f"start: {_json(arguments_schema(function))}"


def forced_calls(functions: Sequence[FunctionDefinition], *, parallel: bool) -> str:
    """A list of one call or more, as `frontend.chat.tools.forced` reads it. parallel: else one."""
    options = []
    for function in functions:
        begin = f'{{"{NAME}": {json.dumps(function.name)}, "{ARGUMENTS}": '
        options.append(f"{_quoted(begin)} {_json(arguments_schema(function))} {_quoted('}')}")
    more = ' (", " call)*' if parallel else ""
    return "\n".join([f'start: "[" call{more} "]"', *_alternatives("call", options)])


def strict_calls(
    functions: Sequence[FunctionDefinition],
    tag: CallTag,
    token_ids: Mapping[str, int],
    *,
    parallel: bool,
) -> str:
    """Free text, in which calls are held to the functions' names, and to the schemas of those that
    are strict.

    token_ids: of marks that are tokens of their own; others are written letter by letter.
    """
    options = []
    for function in functions:
        schema = arguments_schema(function) if function.strict else {"type": "object"}
        begin, end = _marked(tag.begin(function.name), token_ids), _marked(tag.end, token_ids)
        options.append(f"{begin} {_json(schema)} {end}")
    rules = _alternatives("call", options)
    if tag.is_whole_text:
        more = ' ("; " call)*' if parallel else ""
        start = f"start: ({_marked(tag.start, token_ids)})? call{more} | TEXT"
        return "\n".join([start, *rules, _FREE_UNLESS_CALL])
    start = "start: (lead call)* TEXT" if parallel else "start: lead call | TEXT"
    if tag.start in token_ids:
        lead = f"lead: TEXT {_marked(tag.start, token_ids)}"
    else:
        lead = f"lead[lazy]: TEXT {_quoted(tag.start)}"
    return "\n".join([start, lead, *rules, _FREE])


def _alternatives(name: str, options: Sequence[str]) -> list[str]:
    """A rule for any of the options, and one for each of them."""
    names = [f"{name}_{number}" for number in range(len(options))]
    rules = [f"{rule}: {option}" for rule, option in zip(names, options, strict=True)]
    return [f"{name}: {' | '.join(names)}", *rules]


def _json(schema: Mapping[str, Any]) -> str:
    """A value that conforms, spaced as Python does it: white space that may have any length can
    have no end."""
    spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    options = {"x-guidance": spacing}
    return "%json " + json.dumps({**schema, **options}, ensure_ascii=False)


def _marked(text: str, token_ids: Mapping[str, int]) -> str:
    """A text in which marks may stand that are tokens."""
    if not token_ids:
        return _quoted(text)
    pattern = "|".join(map(re.escape, token_ids))
    parts = re.split(f"({pattern})", text)
    written = [f"<[{token_ids[p]}]>" if p in token_ids else _quoted(p) for p in parts if p]
    return " ".join(written) or '""'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
