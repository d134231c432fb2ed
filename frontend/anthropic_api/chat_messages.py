"""Translate the messages of a Messages request to those of a chat.

A message here holds blocks of many types; a chat has a message of its own for each tool result, and
one text for all text blocks.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.http.parsing import ignore_fields
from headrace.frontend.schemas.message_blocks import (
    ContentBlock,
    OtherBlock,
    RedactedThinkingBlock,
    ServerResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolChangeBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from headrace.frontend.schemas.messages import CountTokensRequest, InputMessage

# A client's note to Anthropic's own servers, in a system block. It differs from request to request,
# so that no prompt would be found in the prefix cache.
_BILLING_NOTE = "x-anthropic-billing-header"

_FITTING = {
    "user": (TextBlock, ToolResultBlock),
    "assistant": (
        TextBlock,
        ThinkingBlock,
        RedactedThinkingBlock,
        ToolUseBlock,
        ServerResultBlock,
        OtherBlock,
    ),
    "system": (TextBlock, ToolChangeBlock),
}
# What an answer cannot be understood without.
_FILES = frozenset({"image", "document"})

Turn = tuple[str, list[ContentBlock]]


def chat_messages(request: CountTokensRequest) -> list[dict[str, Any]]:
    """Return the chat's messages. Raises BadRequest if a block does not fit its message's role."""
    system = list(request.system)
    conversation = list(request.messages)
    while conversation and conversation[0].role == "system":
        system += [block for block in conversation.pop(0).content if isinstance(block, TextBlock)]
    text = _join_text(system)
    messages: list[dict[str, Any]] = [{"role": "system", "content": text}] if text else []
    _check_roles(request.messages)
    for role, blocks in _turns(conversation):
        messages += _assistant(blocks) if role == "assistant" else _user(blocks)
    return messages


def continues_last(messages: Sequence[InputMessage]) -> bool:
    """Return whether the last message is the beginning of an output, to be continued."""
    last = messages[-1]
    if last.role != "assistant" or not last.content:
        return False
    block = last.content[-1]
    return isinstance(block, TextBlock) and bool(block.text)


def _check_roles(messages: Sequence[InputMessage]) -> None:
    """Check the blocks of each message. Raises BadRequest if one does not fit its role.

    Blocks of unknown types in answers are left out: other servers' notes for themselves.
    """
    left_out: list[str] = []
    for number, message in enumerate(messages):
        fitting = _FITTING[message.role]
        for index, block in enumerate(message.content):
            if not isinstance(block, fitting) or block.type in _FILES:
                raise BadRequest(
                    f"messages.{number}.content.{index}: this model takes no {block.type!r} blocks"
                    f" in messages of the role {message.role!r}.",
                    "messages",
                )
            if isinstance(block, OtherBlock):
                left_out.append(f"messages.content.{block.type}")
    ignore_fields(left_out)


def _turns(messages: Iterable[InputMessage]) -> list[Turn]:
    """Merge consecutive messages of one role into turns.

    A system message within the conversation joins the user's turn: most templates take none there,
    and moving it to the front would change the beginning of the prompt each time, so that nothing
    of it would be found in the prefix cache.
    """
    turns: list[Turn] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = [block for block in message.content if not isinstance(block, ToolChangeBlock)]
        if message.content and not blocks:
            continue
        if not turns or turns[-1][0] != role:
            turns.append((role, []))
        turns[-1][1].extend(blocks)
    return turns


def _user(blocks: Sequence[ContentBlock]) -> list[dict[str, Any]]:
    """Return a user's turn: the tool results, right after their calls, then the text."""
    messages: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": _join_text(block.content)}
        for block in blocks
        if isinstance(block, ToolResultBlock)
    ]
    text = _join_text(blocks)
    if text or not messages:
        messages.append({"role": "user", "content": text})
    return messages


def _assistant(blocks: Sequence[ContentBlock]) -> list[dict[str, Any]]:
    """Return an assistant's turn: what it said, and after it results of other servers' tools."""
    messages: list[dict[str, Any]] = []
    said: list[ContentBlock] = []
    for block in blocks:
        if not isinstance(block, ServerResultBlock):
            said.append(block)
            continue
        if said:
            messages.append(_answer(said))
            said = []
        result = {"role": "tool", "tool_call_id": block.tool_use_id, "content": block.content}
        messages.append(result)
    return [*messages, _answer(said)] if said or not messages else messages


def _answer(blocks: Sequence[ContentBlock]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _join_text(blocks)}
    reasoning = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    if reasoning:
        message["reasoning"] = "\n".join(reasoning)
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    return message


def _call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": block.input}
    return {"id": block.id, "type": "function", "function": function}


def _join_text(blocks: Iterable[ContentBlock]) -> str:
    """Join the text of blocks by newlines, as the parts of a chat message are."""
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    return "\n".join(text for text in texts if text and not text.startswith(_BILLING_NOTE))
