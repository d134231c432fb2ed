"""Errors of options, in the words of the operator: one line that names the flag or the key."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from headrace.launcher.command.flags import FLAGS, flag_of
from headrace.protocol.reasoning import ReasoningFormat

_MESSAGES = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "dataclass_type": "must be an object",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "finite_number": "must be a finite number",
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "value_error": "{error}",
}
# Types of errors whose value is worth showing: never one that may be a secret.
_SHOWN = frozenset({"int_parsing", "float_parsing", "bool_parsing", "literal_error"})
_KEY = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")


class OptionError(Exception):
    """A flag, a key or a value is invalid. The text is one line that names it."""


def said(error: ValidationError, names: Mapping[str, str]) -> str:
    """Return the first of the errors.

    names: of options by their keys, where they do not come from flags but from a file, whose keys
        they are, or from variables of the environment.
    """
    first = error.errors(include_url=False)[0]
    # A value of several types names the type, too.
    loc = [str(part) for part in first["loc"] if ReasoningFormat.__name__ not in str(part)]
    key, *inner = loc or ["config"]
    if key in names:
        return ": ".join([names[key], *inner, _message(first)])
    return with_flags(": ".join([flag_of(key), *inner, _message(first)]))


def with_flags(text: str) -> str:
    """Return a text with flags in place of the keys of options."""
    keys = {flag.key for flags in FLAGS.values() for flag in flags}
    return _KEY.sub(lambda match: flag_of(match[0]) if match[0] in keys else match[0], text)


def _message(error: ErrorDetails) -> str:
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    context: dict[str, Any] = error.get("ctx", {})
    message = template.format_map(context)
    value = error["input"]
    shown = error["type"] in _SHOWN and isinstance(value, str | int | float)
    return f"{message}: {str(value)[:100]!r}" if shown else message
