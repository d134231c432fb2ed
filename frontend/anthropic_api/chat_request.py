"""Translate a Messages request to a chat request."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from headrace.frontend.anthropic_api.chat_messages import chat_messages, continues_last
from headrace.frontend.anthropic_api.chat_tools import chat_tools, positions_of
from headrace.frontend.errors import ApiError, BadRequest, ThreadsUnsupported
from headrace.frontend.http.parsing import validate
from headrace.frontend.process.worker_thread import MANY_PARTS, run_in_worker_thread
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.messages import CountTokensRequest, MessagesRequest

# Chat fields by their names in this API: errors must name the field that the client sent.
_FIELD_NAMES = {
    "continue_final_message": "messages",
    "include_reasoning": "thinking.display",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "thinking_token_budget": "thinking.budget_tokens",
    "user": "metadata.user_id",
}
_FIELD_PATH = re.compile(r"(?:body\.)?(\w+(?:\.\w+)*)")


async def chat_request(
    request: CountTokensRequest, *, supports_thinking_budget: bool = True
) -> ChatCompletionRequest:
    """Return the chat request, translated off the event loop if it is long.

    supports_thinking_budget: whether the model's reasoning can be bounded. If not, the budget is
        dropped: the client had no choice, as this API has no thinking without one.
    Raises ApiError if a field does not fit a chat.
    """

    def translate() -> ChatCompletionRequest:
        fields = chat_fields(request)
        if not supports_thinking_budget:
            fields.pop("thinking_token_budget", None)
        with rename_error_fields(request):
            chat = validate(ChatCompletionRequest, fields)
        if isinstance(request, MessagesRequest) and request.stop_sequences:
            # This API takes more of them than chats do.
            chat = chat.model_copy(update={"stop": request.stop_sequences})
        return chat

    parts = sum(1 + len(message.content) for message in request.messages) + len(request.tools)
    return await run_in_worker_thread(translate, parts > MANY_PARTS)


def chat_fields(request: CountTokensRequest) -> dict[str, Any]:
    """Return the body of the chat request, not validated yet.

    Raises BadRequest if a field does not fit a chat.
    """
    if request.thread is not None:
        raise ThreadsUnsupported
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": chat_messages(request),
        "chat_template_kwargs": _template_variables(request),
        **_continuation(request),
        **chat_tools(request),
    }
    if request.output_config is not None and request.output_config.effort is not None:
        fields["reasoning_effort"] = request.output_config.effort
    if isinstance(request, MessagesRequest):
        fields |= _generation(request)
    return fields


@contextmanager
def rename_error_fields(request: CountTokensRequest | None = None) -> Iterator[None]:
    """Make errors about a chat's fields name the fields of the Messages request."""
    try:
        yield
    except ApiError as error:
        match = _FIELD_PATH.match(error.message)
        positions = [] if request is None else positions_of(request)
        if match is not None and (path := _rename_path(match[1], positions)) != match[1]:
            error.message = path + error.message[match.end() :]
        raise


def _rename_path(path: str, positions: Sequence[int]) -> str:
    """Return a chat's field as Messages name it. positions: of the chat's tools in the request."""
    field, dot, rest = path.partition(".")
    if field == "tools":
        index = rest.partition(".")[0]
        if index.isdecimal() and len(index) < 5 and int(index) < len(positions):
            rest = f"{positions[int(index)]}{rest[len(index) :]}"
        rest = rest.replace(".function.parameters", ".input_schema").replace(".function", "")
    return f"{_FIELD_NAMES.get(field, field)}{dot}{rest}"


def _template_variables(request: CountTokensRequest) -> dict[str, Any] | None:
    """Return chat_template_kwargs; the client's own take precedence over those of `thinking`."""
    variables: dict[str, Any] = {}
    if request.thinking is not None and request.thinking.type != "adaptive":
        variables["enable_thinking"] = request.thinking.type == "enabled"
    return {**variables, **(request.chat_template_kwargs or {})} or None


def _continuation(request: CountTokensRequest) -> dict[str, Any]:
    """Return the fields to continue an output that the client has begun, if it has."""
    if not continues_last(request.messages):
        return {}
    return {"add_generation_prompt": False, "continue_final_message": True}


def _generation(request: MessagesRequest) -> dict[str, Any]:
    """Return the fields that do not change the prompt."""
    fields: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "stream": request.stream,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k or None,  # 0 means all tokens, as does None
        "cache_salt": request.cache_salt,
        "user": None if request.metadata is None else request.metadata.user_id,
    }
    thinking = request.thinking
    if thinking is not None:
        if thinking.type == "enabled":
            fields["thinking_token_budget"] = _budget(thinking.budget_tokens)
        if thinking.display == "omitted":
            fields["include_reasoning"] = False
    output_format = request.output_config and request.output_config.format
    if output_format := output_format or request.output_format:
        json_schema = {"name": "output", "schema": output_format.json_schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    return fields


def _budget(tokens: int | None) -> int:
    if tokens is None:
        raise BadRequest("thinking.budget_tokens: needed where thinking is enabled.", "thinking")
    return tokens
