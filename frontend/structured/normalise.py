"""Convert all kinds of constraints to grammars in one form, which llguidance reads.

Runs only in a checker, where a client's schema can do no harm.
"""

import json

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from headrace.frontend.structured.checked_schema import (
    TOOL_SPACING,
    WHITESPACE,
    checked_schema,
    note_left_out,
    tool_schema,
)
from headrace.frontend.structured.constraint import TOOL_SCHEMA_MARK, Constraint
from headrace.frontend.structured.structural_tags import tags_grammar


def grammar_text(constraint: Constraint) -> str:
    """Return the constraint's grammar. Raises ValueError, with the reason, if there is none."""
    match constraint.kind:
        case "json_schema" | "json_object":
            return _json_grammar(constraint)
        case "regex":
            return LLMatcher.grammar_from_regex(constraint.definition)
        case "choice":
            literals = " | ".join(map(_quoted, json.loads(constraint.definition)))
            return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {literals}\n")
        case "grammar" if constraint.has_tool_schemas:
            return LLMatcher.grammar_from_lark(_with_tool_schemas(constraint.definition))
        case "grammar":
            return LLMatcher.grammar_from_lark(_to_lark(constraint.definition))
        case "structural_tag":
            return tags_grammar(json.loads(constraint.definition))
        case _:
            raise ValueError(f"unknown kind of constraint: {constraint.kind}")


def _json_grammar(constraint: Constraint) -> str:
    schema = checked_schema(json.loads(constraint.definition), is_closed=constraint.is_closed)
    text = json.dumps(schema, ensure_ascii=False)
    if not constraint.any_whitespace:
        return LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
    if constraint.whitespace_pattern is not None:
        return LLMatcher.grammar_from_json_schema(
            text, overrides={"whitespace_pattern": constraint.whitespace_pattern}
        )
    return LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_pattern": WHITESPACE})


def _with_tool_schemas(definition: str) -> str:
    """Return a grammar in which each schema is one that can be enforced.

    Arguments are spaced as Python's json module does it: free white space could go on forever.
    """
    parts = definition.split(TOOL_SCHEMA_MARK)
    schemas = [tool_schema(json.loads(part)) for part in parts[1::2]]
    note_left_out("tools", {keyword for _, left_out in schemas for keyword in left_out})
    for number, (schema, _) in enumerate(schemas):
        spaced = {**schema, "x-guidance": TOOL_SPACING}
        parts[2 * number + 1] = "%json " + json.dumps(spaced, ensure_ascii=False)
    return "".join(parts)


def _to_lark(grammar: str) -> str:
    try:
        return any_to_lark(grammar)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"it is neither Lark nor GBNF: {error}") from error


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
