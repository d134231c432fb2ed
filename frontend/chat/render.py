"""A chat's messages to the text that the model goes on with."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.frontend.chat.content_format import takes_parts
from headrace.frontend.chat.templates import knows_none, parse
from headrace.frontend.chat.untrusted_template import render_untrusted
from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.chat import ChatMessage, ToolCall
from headrace.frontend.text.model_tokenizer import THREAD_FROM_CHARS, ModelTokenizer
from headrace.protocol.config import RESERVED_NAMES, ServingOptions

THREAD_FROM_MESSAGES = 50


async def render_chat(
    text: ModelTokenizer,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
    variables: Mapping[str, Any],
    documents: Sequence[Mapping[str, str]] | None = None,
    own_template: str | None = None,
    serving: ServingOptions,
    tools: Sequence[dict[str, Any]] | None = None,
) -> str:
    """The chat as the model's template writes it, or the request's own. BadRequest if it cannot be.

    variables: what the request adds to the template's own. tools: that the model may call.
    """
    if not messages:
        raise BadRequest("messages must hold at least one message.")
    if continue_final_message and add_generation_prompt:
        raise BadRequest(
            "continue_final_message and add_generation_prompt exclude each other.",
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
    if own_template is not None:
        return await _render_own(text, messages, own_template, arguments, serving)
    template = text.tool_template if tools else text.template
    if template is None:
        raise BadRequest("This model has no chat template, so it takes completions only.")
    as_parts = _wants_parts(serving, template.takes_parts)

    def render() -> str:
        plain = _plain_all(messages, as_parts, template.knows_none)
        return template.render(plain, **arguments)

    if tools or _is_long(messages):
        return await asyncio.to_thread(render)
    return render()


async def _render_own(
    text: ModelTokenizer,
    messages: Sequence[ChatMessage],
    source: str,
    arguments: Mapping[str, Any],
    serving: ServingOptions,
) -> str:
    """The chat as a template of the request's writes it."""
    if not serving.trust_request_chat_template:
        raise BadRequest(
            "chat_template: this server takes no templates from requests.", "chat_template"
        )
    tokens = text.special_tokens
    as_parts = _wants_parts(serving, await asyncio.to_thread(_takes_parts, source))
    plain = await asyncio.to_thread(_plain_all, messages, as_parts, knows_none(source))
    return await render_untrusted(source, tokens, {"messages": plain, **arguments})


def _takes_parts(source: str) -> bool:
    try:
        return takes_parts(parse(source))
    except (ValueError, RecursionError) as error:
        raise BadRequest("chat_template: it cannot be parsed.", "chat_template") from error


def _wants_parts(serving: ServingOptions, detected: bool) -> bool:
    if serving.chat_template_content_format == "auto":
        return detected
    return serving.chat_template_content_format == "openai"


def _is_long(messages: Sequence[ChatMessage]) -> bool:
    """Whether rendering may take long; what the arguments of calls hold is not looked into."""
    if len(messages) > THREAD_FROM_MESSAGES or any(message.tool_calls for message in messages):
        return True
    return sum(len(message.content or "") for message in messages) > THREAD_FROM_CHARS


def _plain_all(
    messages: Sequence[ChatMessage], as_parts: bool, knows_none: bool
) -> list[dict[str, Any]]:
    return [_plain(message, as_parts, knows_none) for message in messages]


def _plain(message: ChatMessage, as_parts: bool, knows_none: bool) -> dict[str, Any]:
    """A message as templates expect it: only what is there, calls' arguments as objects.

    knows_none: whether the template minds a message of nothing but calls.
    """
    content: Any = message.content
    if content is None and not (message.tool_calls and knows_none):
        content = ""
    if as_parts and content is not None:
        given = message.given if isinstance(message.given, list) else [content]
        content = [{"type": "text", "text": part} for part in given]
    plain: dict[str, Any] = {"role": message.role, "content": content}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [_plain_call(call) for call in message.tool_calls]
    reasoning = message.reasoning_content or message.reasoning
    if reasoning is not None:
        plain["reasoning_content"] = plain["reasoning"] = plain["thinking"] = reasoning
    return plain


def _plain_call(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise BadRequest(
                "messages: the arguments of a tool call must be JSON.", "messages"
            ) from error
    plain: dict[str, Any] = {
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments or {}},
    }
    if call.id is not None:
        plain["id"] = call.id
    return plain
