"""The types of request fields. All are strict: a bool is no number, a string of digits neither.

Two kinds of errors come of them (see `frontend.http.parsing`): a wrong type, and a value out of
range.
"""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_STOPS = 4
MAX_STOP_CHARS = 4096
MAX_STOP_TOKENS = 1024
MAX_NAME_CHARS = 256
INT64 = 2**63


class RequestModel(BaseModel):
    """A request's body: an unknown field is an error, not silently dropped."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _has_no_more_fields_than_known(cls, value: Any) -> Any:
        """Else each of thousands of unknown fields would make an error of its own."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            unknown = next(name for name in value if name not in known)
            raise wrong_type(f"the field {unknown[:40]!r} is unknown")
        return value


def bad_value(message: str) -> PydanticCustomError:
    """The error for a value of the right type that cannot be served."""
    return PydanticCustomError("bad_value", "{reason}", {"reason": message})


def wrong_type(message: str) -> PydanticCustomError:
    """The error for a value of another type than the field's."""
    return PydanticCustomError("wrong_type", "{reason}", {"reason": message})


def _integral(value: Any) -> Any:
    """Some languages' JSON writers know no integers and write 12.0."""
    return int(value) if type(value) is float and value.is_integer() else value


def unsupported(*accepted: Any) -> AfterValidator:
    """A field of the reference that this server does not have: only values without effect pass."""

    def check(value: Any) -> Any:
        if not any(type(value) is type(fine) and value == fine for fine in accepted):
            raise bad_value("is not supported by this server")
        return value

    return AfterValidator(check)


def at_most(count: int) -> BeforeValidator:
    """A list's length, checked before any of its elements is."""

    def check(value: Any) -> Any:
        if isinstance(value, list) and len(value) > count:
            raise bad_value(f"must hold at most {count} elements")
        return value

    return BeforeValidator(check)


def _stops(value: Any) -> Any:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _stop_token_ids(value: Any) -> Any:
    return [] if value is None else value


Int = Annotated[int, BeforeValidator(_integral)]
Float = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
TokenId = Annotated[int, BeforeValidator(_integral), Field(ge=0, lt=2**31)]
Ignored = Annotated[Any, Field(description="Accepted, without effect.")]

Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]],
    Field(max_length=MAX_STOPS),
    at_most(MAX_STOPS),
    BeforeValidator(_stops, json_schema_input_type=str | list[str] | None),
]
StopTokenIds = Annotated[
    list[TokenId],
    Field(max_length=MAX_STOP_TOKENS),
    at_most(MAX_STOP_TOKENS),
    BeforeValidator(_stop_token_ids, json_schema_input_type=list[int] | None),
]
