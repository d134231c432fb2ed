"""Ask the grammar library which single constraints it can enforce."""

import json
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

# Client-made constraints are asked for again and again, for each schema that holds them.
_CACHED = 512
_MAX_CACHED_CHARS = 2000
_MAX_REASON_CHARS = 120


def is_supported(schema: dict[str, Any]) -> bool:
    """Return whether the library knows how to enforce a small schema."""
    return reason_against(schema) is None


def reason_against(schema: dict[str, Any]) -> str | None:
    """Return why the library cannot enforce a small schema; None if it can."""
    text = json.dumps(schema)
    return _reason_against(text) if len(text) <= _MAX_CACHED_CHARS else _compile_error(text)


@lru_cache(_CACHED)
def _reason_against(text: str) -> str | None:
    return _compile_error(text)


def compile_error(schema: dict[str, Any]) -> str | None:
    """Return why the library cannot compile a whole schema; None if it can."""
    return _compile_error(json.dumps(schema))


def _compile_error(text: str) -> str | None:
    try:
        grammar = LLMatcher.grammar_from_json_schema(text)
    except ValueError as error:
        return str(error)[:_MAX_REASON_CHARS]
    error_text: str = LLMatcher.validate_grammar(grammar)
    lines = error_text.strip().splitlines()
    return None if not lines else lines[-1].strip()[:_MAX_REASON_CHARS]
