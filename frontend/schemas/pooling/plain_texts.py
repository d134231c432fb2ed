"""Texts in the forms in which rerankers' and Cohere's clients write them."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from headrace.frontend.schemas.fields import bad_value, wrong_type
from headrace.frontend.schemas.limits import exceeded, limit_of

_FORMS = (
    'must be a text, an object {"text": ...}, or one with a content of parts of the type "text" '
    "(this server reads no images)"
)


def _text(value: Any) -> str:
    """Return the text of a text or an object; parts of a content are on separate lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            return str(value["text"])
        parts = value.get("content")
        if isinstance(parts, list) and parts:
            return "\n".join(map(_part, parts))
    raise wrong_type(_FORMS)


def _part(part: Any) -> str:
    is_text = isinstance(part, dict) and part.get("type") == "text"
    if not (is_text and isinstance(part.get("text"), str)):
        raise wrong_type(_FORMS)
    return str(part["text"])


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        return [_text(value)]
    if not value:
        raise bad_value("must not be empty")
    if len(value) > limit_of("max_inputs"):
        raise exceeded("max_inputs", "must hold at most {} texts")
    return [_text(each) for each in value]


def _optional_texts(value: Any) -> list[str] | None:
    return None if value is None else _texts(value)


_Form = str | dict[str, Any]
PlainText = Annotated[Any, BeforeValidator(_text, json_schema_input_type=_Form)]
PlainTexts = Annotated[Any, BeforeValidator(_texts, json_schema_input_type=_Form | list[_Form])]
OptionalTexts = Annotated[
    Any, BeforeValidator(_optional_texts, json_schema_input_type=list[_Form] | None)
]
