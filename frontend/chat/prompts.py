"""A chat's messages to the text that the model goes on with."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from frontend.chat.templates import RESERVED_NAMES
from frontend.errors import BadRequest
from frontend.schemas.chat import ChatMessage, ToolCall
from frontend.text.model import THREAD_FROM_CHARS, TextModel

THREAD_FROM_MESSAGES = 50


async def render_chat(
    text: TextModel,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
    variables: Mapping[str, Any],
) -> str:
    """The chat as the model's template writes it. BadRequest if it cannot be.

    variables: what the request adds to the template's own.
    """
    template = text.template
    if template is None:
        raise BadRequest("This model has no chat template, so it takes completions only.")
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

    def render() -> str:
        return template.render(
            [_plain(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )

    if _is_long(messages):
        return await asyncio.to_thread(render)
    return render()


def _is_long(messages: Sequence[ChatMessage]) -> bool:
    """Whether rendering may take long; what the arguments of calls hold is not looked into."""
    if len(messages) > THREAD_FROM_MESSAGES or any(message.tool_calls for message in messages):
        return True
    return sum(len(message.content or "") for message in messages) > THREAD_FROM_CHARS


def _plain(message: ChatMessage) -> dict[str, Any]:
    """A message as templates expect it: only what is there, calls' arguments as objects."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.content is None and not message.tool_calls:
        plain["content"] = ""
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
