"""Render the messages of a chat as the text of its prompt."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.frontend.chat.call_arguments import call_arguments
from headrace.frontend.chat.content_format import expects_parts
from headrace.frontend.chat.shown_roles import render_all_messages
from headrace.frontend.chat.template_sandbox import DEADLINE_S, TemplateTimeout, time_limit
from headrace.frontend.chat.templates import distinguishes_none, parse
from headrace.frontend.chat.untrusted_template import render_untrusted
from headrace.frontend.errors import BadRequest
from headrace.frontend.limited_log import LimitedLog
from headrace.frontend.schemas.chat import ChatMessage, ToolCall
from headrace.frontend.text.model_tokenizer import THREAD_FROM_CHARS, ModelTokenizer
from headrace.protocol.config import RESERVED_NAMES, ServingOptions

_log = LimitedLog(logging.getLogger("headrace.frontend.chat"))

# Chats with more messages are rendered in a thread.
THREAD_FROM_MESSAGES = 50
# Others that take longer are rendered again in a thread: other requests wait meanwhile.
EVENT_LOOP_DEADLINE_S = 0.1


async def render_chat(
    tokenizer: ModelTokenizer,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
    variables: Mapping[str, Any],
    documents: Sequence[Mapping[str, str]] | None = None,
    request_template: str | None = None,
    serving: ServingOptions,
    tools: Sequence[dict[str, Any]] | None = None,
) -> str:
    """Render the chat with the model's template, or with the request's own.

    Raises BadRequest if that fails.

    variables: the request's variables for the template.
    tools: the tools that the model may call.
    """
    if not messages:
        raise BadRequest("messages must hold at least one message.")
    if continue_final_message and add_generation_prompt:
        raise BadRequest(
            "continue_final_message and add_generation_prompt exclude each other.",
            "continue_final_message",
        )
    if continue_final_message and messages[-1].tool_calls:
        raise BadRequest(
            "continue_final_message: the last message ends with tool calls, which nothing follows.",
            "continue_final_message",
        )
    reserved = sorted(RESERVED_NAMES & set(variables))
    if reserved:
        raise BadRequest(
            f"chat_template_kwargs must not hold {', '.join(reserved)}.", "chat_template_kwargs"
        )
    arguments: dict[str, Any] = {
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        "variables": {**serving.default_chat_template_kwargs, **variables},
        "documents": documents,
        "tools": tools,
    }
    if request_template is not None:
        return await _render_request_template(
            tokenizer, messages, request_template, arguments, serving
        )
    template = tokenizer.tool_template if tools else tokenizer.template
    if template is None:
        raise BadRequest("This model has no chat template, so it takes no messages.")
    as_parts = _use_parts(serving, template.expects_parts)
    if not template.names_calls and any(message.tool_calls for message in messages):
        _log.warning("a model's chat template does not show the tool calls of earlier turns")

    def render(seconds: float) -> str:
        rendered = _template_messages(messages, as_parts, template.distinguishes_none)
        with time_limit(seconds):
            return render_all_messages(template, rendered, **arguments)

    if not (tools or template.is_slow or _is_long(messages)):
        try:
            return render(EVENT_LOOP_DEADLINE_S)
        except TemplateTimeout:
            template.is_slow = True  # or the machine is busy: then a thread costs little
    try:
        return await asyncio.to_thread(render, DEADLINE_S)
    except TemplateTimeout as error:
        _log.warning(f"a model's chat template has not ended within {DEADLINE_S:g} s")
        raise BadRequest("The chat template takes too long to render these messages.") from error


async def _render_request_template(
    tokenizer: ModelTokenizer,
    messages: Sequence[ChatMessage],
    source: str,
    arguments: Mapping[str, Any],
    serving: ServingOptions,
) -> str:
    """Render the chat with a template that the request brings."""
    if not serving.trust_request_chat_template:
        raise BadRequest(
            "chat_template: this server takes no templates from requests.", "chat_template"
        )
    tokens = tokenizer.special_tokens
    as_parts = _use_parts(serving, await asyncio.to_thread(_expects_parts, source))
    rendered = await asyncio.to_thread(
        _template_messages, messages, as_parts, distinguishes_none(source)
    )
    return await render_untrusted(source, tokens, {"messages": rendered, **arguments})


def _expects_parts(source: str) -> bool:
    try:
        return expects_parts(parse(source))
    except (ValueError, RecursionError) as error:
        raise BadRequest("chat_template: it cannot be parsed.", "chat_template") from error


def _use_parts(serving: ServingOptions, detected: bool) -> bool:
    if serving.chat_template_content_format == "auto":
        return detected
    return serving.chat_template_content_format == "openai"


def _is_long(messages: Sequence[ChatMessage]) -> bool:
    """Return whether rendering may take long.

    Any tool call counts as long: its arguments are not measured.
    """
    if len(messages) > THREAD_FROM_MESSAGES or any(message.tool_calls for message in messages):
        return True
    return sum(len(message.content or "") for message in messages) > THREAD_FROM_CHARS


def _template_messages(
    messages: Sequence[ChatMessage], as_parts: bool, distinguishes_none: bool
) -> list[dict[str, Any]]:
    return [_template_message(message, as_parts, distinguishes_none) for message in messages]


def _template_message(
    message: ChatMessage, as_parts: bool, distinguishes_none: bool
) -> dict[str, Any]:
    """Return a message as templates expect it: set fields only, call arguments as objects.

    distinguishes_none: whether the template handles a message that holds only tool calls.
    """
    content: Any = message.content
    if content is None and not (message.tool_calls and distinguishes_none):
        content = ""
    if as_parts and content is not None:
        parts = message.raw_content if isinstance(message.raw_content, list) else [content]
        content = [{"type": "text", "text": part} for part in parts]
    result: dict[str, Any] = {"role": message.role, "content": content}
    if message.name is not None:
        result["name"] = message.name
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        result["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    reasoning = message.reasoning_content or message.reasoning
    if reasoning is not None:
        result["reasoning_content"] = result["reasoning"] = result["thinking"] = reasoning
    return result


def _template_call(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments
    if not isinstance(arguments, dict):
        arguments = call_arguments(arguments)
    template_call: dict[str, Any] = {
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
    if call.id is not None:
        template_call["id"] = call.id
    return template_call
