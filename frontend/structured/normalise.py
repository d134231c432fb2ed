"""Convert all kinds of constraints to grammars in one form, which llguidance reads.

Runs only in a checker, where a client's schema can do no harm.
"""

import json
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from headrace.frontend.structured.constraint import Constraint
from headrace.frontend.structured.structural_tags import tags_grammar

# Between the parts of JSON. Bounded, because confused models repeat whitespace without end.
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"


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
        case "grammar":
            return LLMatcher.grammar_from_lark(_to_lark(constraint.definition))
        case "structural_tag":
            return tags_grammar(json.loads(constraint.definition))
        case _:
            raise ValueError(f"unknown kind of constraint: {constraint.kind}")


def _json_grammar(constraint: Constraint) -> str:
    schema = json.loads(constraint.definition)
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError("a schema must be an object")
    if constraint.is_closed:
        _close(schema)
    if not constraint.any_whitespace:
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    if constraint.whitespace_pattern is not None:
        return LLMatcher.grammar_from_json_schema(
            schema, overrides={"whitespace_pattern": constraint.whitespace_pattern}
        )
    return LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": WHITESPACE})


def _close(schema: dict[str, Any]) -> None:
    """Forbid properties that a schema does not name, unless it says otherwise."""
    pending: list[Any] = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
            names = item.get("properties"), item.get("patternProperties")
            if any(isinstance(named, dict) for named in names):
                item.setdefault("additionalProperties", False)


def _to_lark(grammar: str) -> str:
    try:
        return any_to_lark(grammar)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"it is neither Lark nor GBNF: {error}") from error


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
