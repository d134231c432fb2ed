"""The delimiters of a model's reasoning: an operator's `--reasoning-parser`.

A format is chosen by its name, or described by its delimiters.
"""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_DELIMITER_CHARS = 64


def _check_no_outer_space(text: str) -> str:
    if text.strip() != text:
        raise ValueError("must not begin or end with white space")
    return text


Delimiter = Annotated[
    str, Field(min_length=1, max_length=MAX_DELIMITER_CHARS), AfterValidator(_check_no_outer_space)
]


class ReasoningFormat(BaseModel):
    """The format of a model's reasoning.

    start, end: the delimiters around reasoning, which comes at the beginning of an answer.
    assumed: whether an answer begins with reasoning even if neither its prompt nor its text has the
        start delimiter.
    switch: the variable of the chat template that turns reasoning off if it is false; reasoning is
        not assumed then. None: there is none.
    ends_before: delimiters that also end reasoning, in requests with tools, and belong to what
        follows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Delimiter
    end: Delimiter
    assumed: bool = False
    switch: str | None = None
    ends_before: tuple[Delimiter, ...] = ()

    @model_validator(mode="after")
    def _check_delimiters(self) -> "ReasoningFormat":
        if self.start == self.end:
            raise ValueError("start and end must differ")
        ends = (self.end, *self.ends_before)
        if any(end in other for end in ends for other in ends if end is not other):
            raise ValueError("no delimiter that ends reasoning may be part of another")
        return self


FORMATS = {
    "deepseek_r1": ReasoningFormat(start="<think>", end="</think>", assumed=True),
    "qwen3": ReasoningFormat(
        start="<think>",
        end="</think>",
        assumed=True,
        switch="enable_thinking",
        ends_before=("<tool_call>",),
    ),
}

_EXAMPLE = '{"start": "<think>", "end": "</think>"}'


def parse_format(value: Any) -> Any:
    """Return the format of this name, or the object that a JSON text describes.

    Returns a value that is not a string unchanged. Raises ValueError for a string that is neither a
    name nor a JSON object.
    """
    if not isinstance(value, str):
        return value
    known = FORMATS.get(value)
    if known is not None:
        return known
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError(f"must be {', '.join(FORMATS)} or a JSON object such as {_EXAMPLE}")
    return parsed
