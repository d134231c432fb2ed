"""The operator's limits on requests, as validators of fields.

The limits in force are a context variable: they belong to the application that serves a request,
and work that a request begins has them, too.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from headrace.protocol.limit_options import LimitOptions

_LIMITS: ContextVar[LimitOptions] = ContextVar("limits", default=LimitOptions())  # noqa: B039 (frozen)


def current_limits() -> LimitOptions:
    """Return the limits in force."""
    return _LIMITS.get()


def set_limits(limits: LimitOptions) -> None:
    """Put limits in force, for the current task and those that it begins."""
    _LIMITS.set(limits)


@contextmanager
def limits_in_force(limits: LimitOptions) -> Iterator[None]:
    """Put limits in force within the context."""
    token = _LIMITS.set(limits)
    try:
        yield
    finally:
        _LIMITS.reset(token)


def limit_of(name: str) -> int:
    """Return a limit in force, by the name of its option."""
    value: int = getattr(current_limits(), name)
    return value


def exceeded(limit: str, text: str) -> PydanticCustomError:
    """Return the error for a value that exceeds a limit. text: with "{}" where the limit stands."""
    reason = text.format(limit_of(limit))
    return PydanticCustomError("bad_value", "{reason}", {"reason": reason})


@dataclass(frozen=True)
class _Bound:
    """A bound of a field's value by a limit, checked before all else about the field.

    limit: the name of the option. text: of the error, with "{}" where the limit stands.
    keyword: of a JSON schema, for such a limit.
    """

    limit: str
    text: str
    keyword: str

    def __post_init__(self) -> None:
        assert self.limit in LimitOptions.model_fields, self.limit

    def size_of(self, value: Any) -> float | None:
        """Return what is limited of a value; None if the value is of another type."""
        raise NotImplementedError

    def check(self, value: Any) -> Any:
        """Return the value. Raises the error for a bad value if it exceeds the limit."""
        size = self.size_of(value)
        if size is not None and size > limit_of(self.limit):
            raise exceeded(self.limit, self.text)
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        if "$ref" not in described and "anyOf" not in described:
            described[self.keyword] = limit_of(self.limit)
        return described


class _LengthBound(_Bound):
    def size_of(self, value: Any) -> float | None:
        return len(value) if isinstance(value, list) else None


class _CharactersBound(_Bound):
    def size_of(self, value: Any) -> float | None:
        return len(value) if isinstance(value, str) else None


class _ValueBound(_Bound):
    def size_of(self, value: Any) -> float | None:
        return value if type(value) in (int, float) else None


def at_most_of(limit: str) -> _Bound:
    """Return a bound of a list's length."""
    return _LengthBound(limit, "must hold at most {} elements", "maxItems")


def characters_of(limit: str) -> _Bound:
    """Return a bound of a text's length."""
    return _CharactersBound(limit, "must have at most {} characters", "maxLength")


def no_more_than(limit: str) -> _Bound:
    """Return a bound of a number."""
    return _ValueBound(limit, "must be at most {}", "maximum")


def json_chars(value: Any) -> int:
    """Return how many characters a value has as JSON."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def nesting_depth(value: Any, most: int) -> int:
    """Return how deep lists and objects are nested, up to most + 1, without recursion."""
    level, depth = [value], 0
    while level and depth <= most:
        children: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                children.extend(item.values())
            elif isinstance(item, list) and set(map(type, item)) != {int}:  # no token ids
                children.extend(item)
        depth += 1
        level = [item for item in children if isinstance(item, (dict, list))]
    return depth


def check_template_arguments(value: Any) -> Any:
    """Return arguments of a chat template. Raises the error for a bad value if they are too many,
    too long or nested too deeply."""
    if not isinstance(value, dict):
        return value
    limits = current_limits()
    if len(value) > limits.max_template_arguments:
        raise exceeded("max_template_arguments", "must hold at most {} names")
    depth = limits.max_template_argument_depth
    if nesting_depth(value, depth) > depth:
        raise exceeded("max_template_argument_depth", "must be nested at most {} deep")
    if json_chars(value) > limits.max_template_argument_chars:
        raise exceeded("max_template_argument_chars", "must have at most {} characters as JSON")
    return value


def check_tool_size(tool: Any) -> Any:
    """Return a tool. Raises the error for a bad value if it is too long."""
    if isinstance(tool, dict) and json_chars(tool) > limit_of("max_tool_chars"):
        raise exceeded("max_tool_chars", "must have at most {} characters as JSON")
    return tool
