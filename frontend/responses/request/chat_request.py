"""A responses request as the chat request that it comes to."""

import re
from collections.abc import Sequence
from typing import Any

from headrace.frontend.errors import ApiError
from headrace.frontend.http.parsing import validate
from headrace.frontend.responses.request.conversation import chat_messages
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.responses import Item, ResponsesRequest, passed_on

# Output tokens that a prompt leaves room for when it may be cut and nothing says how many.
_ROOM = 1024

# A chat's fields that are called otherwise here.
_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "truncate_prompt_tokens": "truncation",
}
_LEADING_NAME = re.compile(rf"^(?:body\.)?({'|'.join(_NAMES)})\b")


def chat_request(
    request: ResponsesRequest,
    items: Sequence[Item],
    *,
    tools: Sequence[dict[str, Any]],
    tool_choice: Any,
    max_tokens: int | None,
    seed: int,
    max_model_len: int,
) -> ChatCompletionRequest:
    """The chat that has come so far. ApiError, in this API's names, if it cannot be one."""
    fields: dict[str, Any] = {
        **passed_on(request),
        "messages": chat_messages(request.instructions, items),
        "model": request.model,
        "seed": seed,
        "max_completion_tokens": max_tokens,
    }
    if tools:
        fields |= {"tools": list(tools), "tool_choice": tool_choice}
    if request.has_logprobs:
        fields |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if request.reasoning is not None and request.reasoning.effort is not None:
        fields["reasoning_effort"] = request.reasoning.effort
    if (response_format := _response_format(request)) is not None:
        fields["response_format"] = response_format
    if request.truncation == "auto":
        room = max_tokens or min(_ROOM, max_model_len // 4)
        fields["truncate_prompt_tokens"] = max(1, max_model_len - room)
    try:
        return validate(ChatCompletionRequest, fields)
    except ApiError as error:
        raise renamed(error) from error


def _response_format(request: ResponsesRequest) -> dict[str, Any] | None:
    chosen = None if request.text is None else request.text.format
    if chosen is None or chosen.type == "text":
        return None
    if chosen.type == "json_object":
        return {"type": "json_object"}
    given = chosen.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
    return {"type": "json_schema", "json_schema": given}


def renamed(error: ApiError) -> ApiError:
    """An error about a chat, told in the names that the client has used."""
    named = _LEADING_NAME.match(error.message)
    message = _renamed(error.message)
    param = _NAMES[named[1]] if named and error.param is None else error.param
    return type(error)(message, None if param is None else _renamed(param), error.headers)


def _renamed(text: str) -> str:
    return _LEADING_NAME.sub(lambda match: _NAMES[match[1]], text, count=1)
