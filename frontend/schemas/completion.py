"""The request of POST /v1/completions."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from headrace.frontend.schemas.fields import Int, bad_value, unsupported, wrong_type
from headrace.frontend.schemas.generation import GenerationRequest, LogprobCount
from headrace.frontend.schemas.limits import exceeded, limit_of, no_more_than

# A prompt as text or as token ids.
PromptInput = str | list[int]


def _prompts(value: Any) -> Any:
    """Return one prompt or several as a list.

    Lists of ids can be long, so their types are checked without a loop in Python.
    """
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    if not isinstance(value, list):
        raise wrong_type("must be a string, a list of strings, token ids, or a list of these")
    types = set(map(type, value))
    if types == {int}:
        return [value]
    if not value:
        raise bad_value("must not be empty")
    if len(value) > limit_of("max_prompts"):
        raise exceeded("max_prompts", "must hold at most {} prompts")
    if types == {str}:
        return value
    if types != {list} or any(set(map(type, ids)) - {int} for ids in value):
        raise wrong_type("must be a string, a list of strings, token ids, or a list of these")
    return value


Prompts = Annotated[
    Any,
    BeforeValidator(
        _prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]] | None
    ),
]


class CompletionRequest(GenerationRequest):
    """A request for completions of prompts.

    logprobs: how many of the likeliest tokens to return at each output token.
    """

    prompt: Prompts = None
    max_tokens: Annotated[Int, Field(ge=0)] | None = None
    logprobs: LogprobCount | None = None
    echo: bool | None = False
    add_special_tokens: bool = True

    best_of: Annotated[Int, Field(ge=1), no_more_than("max_n")] | None = None
    prompt_embeds: Annotated[Any, unsupported(None)] = None
    suffix: Annotated[Any, unsupported(None, "")] = None

    @property
    def prompts(self) -> list[PromptInput]:
        prompts: list[PromptInput] = self.prompt or []
        return prompts
