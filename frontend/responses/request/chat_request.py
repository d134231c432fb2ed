"""Translate a Responses request to a chat request, and chat errors back to its field names."""

import re
from collections.abc import Sequence
from typing import Any

from headrace.frontend.errors import ApiError
from headrace.frontend.http.parsing import validate
from headrace.frontend.responses.request.conversation import chat_messages
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.responses import Item, ResponsesRequest, passed_on

# Output tokens that a truncated prompt leaves room for if the request does not say how many.
_DEFAULT_OUTPUT_TOKENS = 1024

# Chat fields by their names in this API.
_FIELD_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "truncate_prompt_tokens": "truncation",
}
_LEADING_NAME = re.compile(rf"^(body\.)?({'|'.join(_FIELD_NAMES)})\b")


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
    """Return the chat so far.

    items: of the conversation, the output of this response included.
    Raises ApiError, which names this API's fields, if a field does not fit a chat.
    """
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
        # A limit near the context's size is cut to what the prompt leaves, and must leave a prompt.
        default = min(_DEFAULT_OUTPUT_TOKENS, max_model_len // 4)
        output_tokens = max_tokens if max_tokens and max_tokens <= max_model_len // 2 else default
        fields["truncate_prompt_tokens"] = max(1, max_model_len - output_tokens)
    try:
        return validate(ChatCompletionRequest, fields)
    except ApiError as error:
        raise rename_fields(error) from error


def _response_format(request: ResponsesRequest) -> dict[str, Any] | None:
    text_format = None if request.text is None else request.text.format
    if text_format is None or text_format.type == "text":
        return None
    if text_format.type == "json_object":
        return {"type": "json_object"}
    json_schema = text_format.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
    return {"type": "json_schema", "json_schema": json_schema}


def rename_fields(error: ApiError) -> ApiError:
    """Return an error about a chat with the field names that the client used."""
    match = _LEADING_NAME.match(error.message)
    message = _rename_leading(error.message)
    param = _FIELD_NAMES[match[2]] if match and error.param is None else error.param
    return error.renamed(message, None if param is None else _rename_leading(param))


def _rename_leading(text: str) -> str:
    return _LEADING_NAME.sub(
        lambda match: f"{match[1] or ''}{_FIELD_NAMES[match[2]]}", text, count=1
    )
