"""The types of request fields. All are strict: a bool is not a number, nor is a string of digits.

They raise two kinds of errors (see `frontend.http.parsing`): wrong type, and value out of range.
"""

from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from headrace.frontend.schemas.limits import at_most_of, characters_of
from headrace.frontend.schemas.unknown_fields import note_unknown_fields

MAX_NAME_CHARS = 256
INT64 = 2**63
# Blanks, and the joiners U+200C and U+200D, which str.isprintable takes for control characters.
_UNSHOWN = dict.fromkeys(
    (0xA0, 0x1680, *range(0x2000, 0x200B), 0x200C, 0x200D, 0x202F, 0x205F, 0x3000), " "
)


class RequestModel(BaseModel):
    """An object in a request's body. Unknown fields are noted and have no effect."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    _known_fields: ClassVar[frozenset[str]] = frozenset()
    _unknown_are_errors: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls._known_fields = frozenset(
            field.alias or name for name, field in cls.model_fields.items()
        )

    @model_validator(mode="before")
    @classmethod
    def _find_unknown_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.keys() <= cls._known_fields:
            note_unknown_fields(cls, value, cls._known_fields, cls._unknown_are_errors)
        return value


class StrictRequestModel(RequestModel):
    """A body that acts on the pool. Unknown fields are errors: the act may not be the one meant."""

    _unknown_are_errors: ClassVar[bool] = True


def bad_value(message: str) -> PydanticCustomError:
    """Return the error for a value of the right type that cannot be served."""
    return PydanticCustomError("bad_value", "{reason}", {"reason": message})


def wrong_type(message: str) -> PydanticCustomError:
    """Return the error for a value of the wrong type."""
    return PydanticCustomError("wrong_type", "{reason}", {"reason": message})


def is_one_line(text: str) -> bool:
    """Return whether a text has letters, and no characters that break or reorder a line.

    Blanks of other scripts and joiners, which stand within words and emoji, are no such characters.
    """
    shown = text.translate(_UNSHOWN)
    return shown.isprintable() and bool(shown.strip())


def _as_integer(value: Any) -> Any:
    """Convert 12.0 to 12: JSON writers of some languages have no integers."""
    return int(value) if type(value) is float and value.is_integer() else value


def unsupported(*accepted: Any) -> AfterValidator:
    """Return a validator for a field of the reference that this server does not support.

    accepted: the values without effect, which are accepted.
    """

    def check(value: Any) -> Any:
        if not any(type(value) is type(each) and value == each for each in accepted):
            raise bad_value("is not supported by this server")
        return value

    return AfterValidator(check)


def at_most(count: int) -> BeforeValidator:
    """Return a validator of a list's length, which runs before its elements are validated."""

    def check(value: Any) -> Any:
        if isinstance(value, list) and len(value) > count:
            raise bad_value(f"must hold at most {count} elements")
        return value

    return BeforeValidator(check)


def _stop_list(value: Any) -> Any:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _none_as_empty(value: Any) -> Any:
    return [] if value is None else value


Int = Annotated[int, BeforeValidator(_as_integer)]
Float = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
TokenId = Annotated[int, BeforeValidator(_as_integer), Field(ge=0, lt=2**31)]
Ignored = Annotated[Any, Field(description="Accepted, without effect.")]

StopText = Annotated[str, Field(min_length=1), characters_of("max_stop_chars")]
Stops = Annotated[
    list[StopText],
    at_most_of("max_stop"),
    BeforeValidator(_stop_list, json_schema_input_type=str | list[str] | None),
]
StopTokenIds = Annotated[
    list[TokenId],
    at_most_of("max_stop_token_ids"),
    BeforeValidator(_none_as_empty, json_schema_input_type=list[int] | None),
]
