"""How a model marks its reasoning: an operator's `--reasoning-parser`.

A format is chosen by a name, for models whose marks are known, or described by its tags.
"""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_DELIMITER_CHARS = 64


def _not_blank(mark: str) -> str:
    if mark.strip() != mark:
        raise ValueError("must not begin or end with white space")
    return mark


Delimiter = Annotated[str, Field(min_length=1, max_length=MAX_DELIMITER_CHARS), AfterValidator(_not_blank)]


class ReasoningFormat(BaseModel):
    """start, end: the marks around reasoning, which stands at the beginning of an answer.

    assumed: whether an answer begins with reasoning even where neither its prompt nor its text
        shows the start mark.
    switch: the variable of the chat template that turns reasoning off when it is false; nothing is
        assumed then. None: there is none.
    ends_before: what ends reasoning too, in requests with tools, and belongs to what follows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Delimiter
    end: Delimiter
    assumed: bool = False
    switch: str | None = None
    ends_before: tuple[Delimiter, ...] = ()

    @model_validator(mode="after")
    def _check_marks(self) -> "ReasoningFormat":
        if self.start == self.end:
            raise ValueError("start and end must differ")
        ends = (self.end, *self.ends_before)
        if any(one in other for one in ends for other in ends if one is not other):
            raise ValueError("no mark that ends reasoning may be part of another")
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
    """A format by its name, or the object of a text in JSON; anything else as it is.

    ValueError for a text that is neither.
    """
    if not isinstance(value, str):
        return value
    known = FORMATS.get(value)
    if known is not None:
        return known
    try:
        described = json.loads(value)
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        raise ValueError(f"must be {', '.join(FORMATS)} or a JSON object such as {_EXAMPLE}")
    return described
