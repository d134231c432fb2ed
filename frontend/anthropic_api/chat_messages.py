"""The messages of a Messages request as those of a chat.

Messages hold blocks of many kinds; a chat has a message for each tool's result, and one text for
all that is said.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.messages import (
    ContentBlock,
    CountTokensRequest,
    InputMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

# A client's note to Anthropic's own servers that stands among the system's blocks. It differs from
# request to request, so that no prompt would be found in the cache.
_BILLING_NOTE = "x-anthropic-billing-header"

Turn = tuple[str, list[ContentBlock]]


def chat_messages(request: CountTokensRequest) -> list[dict[str, Any]]:
    """The chat's messages. BadRequest for blocks that do not go with their message's role."""
    system = list(request.system)
    rest = list(request.messages)
    while rest and rest[0].role == "system":
        system += [block for block in rest.pop(0).content if isinstance(block, TextBlock)]
    said = _joined(system)
    messages: list[dict[str, Any]] = [{"role": "system", "content": said}] if said else []
    _check_roles(request.messages)
    for role, blocks in _turns(rest):
        messages += _assistant(blocks) if role == "assistant" else _user(blocks)
    return messages


def continues_last(messages: Sequence[InputMessage]) -> bool:
    """Whether the last message is the beginning of an answer, which is to be gone on with."""
    last = messages[-1]
    if last.role != "assistant" or not last.content:
        return False
    block = last.content[-1]
    return isinstance(block, TextBlock) and bool(block.text)


def _check_roles(messages: Sequence[InputMessage]) -> None:
    """BadRequest, naming the block, if a message holds what its author cannot say."""
    for number, message in enumerate(messages):
        for place, block in enumerate(message.content):
            if message.role == "assistant":
                fits = not isinstance(block, ToolResultBlock)
            elif message.role == "user":
                fits = isinstance(block, TextBlock | ToolResultBlock)
            else:
                fits = isinstance(block, TextBlock)
            if not fits:
                raise BadRequest(
                    f"messages.{number}.content.{place}: a message of the role {message.role!r}"
                    f" holds no {block.type!r} blocks.",
                    "messages",
                )


def _turns(messages: Iterable[InputMessage]) -> list[Turn]:
    """Messages that follow each other in one role are one turn.

    What the system says within a chat counts to the user's turn there: most templates have no
    place for it, and moving it to the front would change the prompt's beginning each time, so
    that nothing of it were found in the cache.
    """
    turns: list[Turn] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        if not turns or turns[-1][0] != role:
            turns.append((role, []))
        turns[-1][1].extend(message.content)
    return turns


def _user(blocks: Sequence[ContentBlock]) -> list[dict[str, Any]]:
    """The results of tools, which follow right after the calls; then what the user says."""
    messages: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": _joined(block.content)}
        for block in blocks
        if isinstance(block, ToolResultBlock)
    ]
    text = _joined(blocks)
    if text or not messages:
        messages.append({"role": "user", "content": text})
    return messages


def _assistant(blocks: Sequence[ContentBlock]) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": _joined(blocks)}
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    if thoughts:
        message["reasoning"] = "\n".join(thoughts)
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    return [message]


def _call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": block.input}
    return {"id": block.id, "type": "function", "function": function}


def _joined(blocks: Iterable[ContentBlock]) -> str:
    """The text of blocks, on lines of their own, as the parts of a chat's message are."""
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    return "\n".join(text for text in texts if text and not text.startswith(_BILLING_NOTE))
