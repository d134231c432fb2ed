"""Request fields that restrict tokens, or select tokens for log probabilities."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from headrace.frontend.schemas.fields import (
    Int,
    RequestModel,
    TokenId,
    bad_value,
    wrong_type,
)
from headrace.frontend.schemas.limits import at_most_of, exceeded, limit_of

MAX_NAMED = 8  # of the names at fault
MAX_BIAS = 100.0
MAX_BAD_WORD_CHARS = 256
MAX_PATTERN_SIZE = 1024


def _logit_bias(value: Any) -> Any:
    """Return the biases by token id.

    Values outside the range are clamped, as in the reference.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type("must map token ids to numbers")
    if len(value) > limit_of("max_logit_bias"):
        raise exceeded("max_logit_bias", "must hold at most {} tokens")
    if wrong := [key for key in value if not _is_token_id(key)]:
        named = ", ".join(repr(str(key)[:40]) for key in wrong[:MAX_NAMED])
        raise bad_value(f"its names must be token ids, not {named}")
    return {int(key): _bias(key, bias) for key, bias in value.items()}


def _is_token_id(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 11


def _bias(key: Any, bias: Any) -> float:
    if type(bias) not in (int, float):
        raise wrong_type(f"its values must be numbers, that of {str(key)[:40]!r} is not")
    if not math.isfinite(bias):
        raise bad_value(f"its values must be finite numbers, that of {str(key)[:40]!r} is not")
    return min(MAX_BIAS, max(-MAX_BIAS, float(bias)))


def _allowed_token_ids(value: Any) -> Any:
    """Check the types of a list as long as the vocabulary without a loop in Python."""
    if value is None:
        return None
    if not isinstance(value, list) or set(map(type, value)) - {int}:
        raise wrong_type("must be a list of token ids")
    if not value:
        raise bad_value("must not be empty")
    if len(value) > limit_of("max_token_ids"):
        raise exceeded("max_token_ids", "must hold at most {} token ids")
    return value


def _none_as_empty(value: Any) -> Any:
    return [] if value is None else value


class RepetitionDetection(RequestModel):
    """Options of ending an output that repeats itself.

    max_pattern_size: 0 turns detection off. min_pattern_size: 0 stands for 1.
    """

    max_pattern_size: Annotated[Int, Field(ge=0, le=MAX_PATTERN_SIZE)] = 0
    min_pattern_size: Annotated[Int, Field(ge=0, le=MAX_PATTERN_SIZE)] = 0
    min_count: Annotated[Int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _check_sizes(self) -> "RepetitionDetection":
        if self.min_pattern_size > self.max_pattern_size:
            raise bad_value("min_pattern_size must not be more than max_pattern_size")
        if self.max_pattern_size and self.min_count < 2:
            raise bad_value("min_count must be at least 2")
        return self


LogitBias = Annotated[
    Any, BeforeValidator(_logit_bias, json_schema_input_type=dict[str, float] | None)
]
AllowedTokenIds = Annotated[
    Any, BeforeValidator(_allowed_token_ids, json_schema_input_type=list[int] | None)
]
LogprobTokenIds = Annotated[list[TokenId], at_most_of("max_logprob_token_ids")]
BadWords = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_BAD_WORD_CHARS)]],
    at_most_of("max_bad_words"),
    BeforeValidator(_none_as_empty, json_schema_input_type=list[str] | None),
]


class ConstraintFields(RequestModel):
    """Fields that constrain which tokens are sampled.

    logit_bias: biases by token id.
    allowed_token_ids: None: all tokens are allowed.
    logprob_token_ids: tokens whose log probabilities are returned, instead of the likeliest tokens.
    """

    logit_bias: LogitBias = Field(default_factory=dict)
    allowed_token_ids: AllowedTokenIds = None
    bad_words: BadWords = Field(default_factory=list)
    logprob_token_ids: LogprobTokenIds | None = None
    repetition_detection: RepetitionDetection | None = None
