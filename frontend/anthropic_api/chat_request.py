"""Translate a Messages request to a chat request."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headrace.frontend.anthropic_api.chat_messages import chat_messages, continues_last
from headrace.frontend.errors import ApiError, BadRequest
from headrace.frontend.http.parsing import ignore_fields, validate
from headrace.frontend.process.worker_thread import MANY_PARTS, run_in_worker_thread
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.messages import (
    AnthropicTool,
    CountTokensRequest,
    MessagesRequest,
    TypedTool,
)

_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

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
        with rename_error_fields():
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
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": chat_messages(request),
        "chat_template_kwargs": _template_variables(request),
        **_continuation(request),
        **_tools(request),
    }
    if request.output_config is not None and request.output_config.effort is not None:
        fields["reasoning_effort"] = request.output_config.effort
    if isinstance(request, MessagesRequest):
        fields |= _generation(request)
    return fields


@contextmanager
def rename_error_fields() -> Iterator[None]:
    """Make errors about a chat's fields name the fields of the Messages request."""
    try:
        yield
    except ApiError as error:
        match = _FIELD_PATH.match(error.message)
        if match is not None and (path := _rename_path(match[1])) != match[1]:
            error.message = path + error.message[match.end() :]
        raise


def _rename_path(path: str) -> str:
    field, dot, rest = path.partition(".")
    if field == "tools":
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


def _tools(request: CountTokensRequest) -> dict[str, Any]:
    choice = request.tool_choice
    tools = [tool for tool in request.tools if isinstance(tool, AnthropicTool)]
    ignore_fields([f"tools.{each.type}" for each in request.tools if isinstance(each, TypedTool)])
    if not tools:
        if choice is not None and choice.type in ("any", "tool"):
            raise BadRequest("tool_choice: there is no tool that could be called.", "tool_choice")
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in tools], "tool_choice": "auto"}
    if choice is None:
        return fields
    if choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    if choice.type == "tool":
        if choice.name not in [tool.name for tool in tools]:
            raise BadRequest("tool_choice.name: must be the name of one of the tools.")
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        fields["tool_choice"] = _TOOL_CHOICES[choice.type]
    return fields


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "parameters": {"type": "object", **tool.input_schema},
    }
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
