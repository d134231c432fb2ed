"""The content blocks of Messages requests.

This server reads text. Blocks whose content is text under another name become text blocks while
they are validated; those of types that it does not know are kept by their type alone, since whether
they may be left out depends on their message's role.
"""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, FailFast, Field, Tag

from headrace.frontend.schemas.fields import Ignored, RequestModel, bad_value, wrong_type
from headrace.frontend.schemas.limits import at_most_of
from headrace.frontend.schemas.message_tools import Id, ToolChange

_MAX_TYPE_CHARS = 64


class Block(RequestModel):
    """The common fields of content blocks. Prompts are cached without being asked to."""

    cache_control: Ignored = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: Ignored = None


class ThinkingBlock(Block):
    """Thinking of an earlier answer.

    signature: as it was in that answer; it is not checked.
    """

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Block):
    """Thinking that only another model's server can read."""

    type: Literal["redacted_thinking"]
    data: Ignored = None


def _arguments(value: Any) -> Any:
    """Return a call's input as an object or its JSON, which chats repair if it is broken."""
    if value is None:
        return {}
    return value if isinstance(value, (dict, str)) else json.dumps(value)


class ToolUseBlock(Block):
    """A call of a tool, of the client's or of another server's."""

    type: Literal["tool_use", "server_tool_use", "mcp_tool_use"]
    id: Id
    name: Id
    input: Annotated[dict[str, Any] | str, BeforeValidator(_arguments)] = Field(
        default_factory=dict
    )
    caller: Ignored = None
    server_name: Ignored = None
    toolset_name: Ignored = None


def _result_text(content: Any) -> Any:
    """Return the readable part of the result of a tool that another server has run."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        return "\n".join(part["text"] for part in parts)
    shown = [
        {key: value for key, value in part.items() if not key.startswith("encrypted_")}
        if isinstance(part, dict)
        else part
        for part in parts
    ]
    return json.dumps(shown, ensure_ascii=False)


class ServerResultBlock(BaseModel):
    """The result of a tool that another server has run, such as "web_search_tool_result"."""

    model_config = ConfigDict(strict=True, frozen=True)

    type: str
    tool_use_id: Id
    content: Annotated[str, BeforeValidator(_result_text, json_schema_input_type=Any)] = ""


class ToolChangeBlock(Block):
    """A change of the tools, by the system."""

    type: Literal["tool_addition", "tool_removal"]
    tool: ToolChange


class OtherBlock(BaseModel):
    """A block of a type that this server does not read."""

    model_config = ConfigDict(strict=True, frozen=True)

    type: str


def _document_text(block: dict[str, Any]) -> str | None:
    """Return the text of a document; None if it is another kind of file."""
    source = block.get("source")
    if not isinstance(source, dict):
        return None
    text = {"text": source.get("data"), "content": source.get("content")}.get(
        str(source.get("type"))
    )
    return _with_heading(block, "title", "context", text=text)


def _search_result_text(block: dict[str, Any]) -> str | None:
    return _with_heading(block, "title", "source", text=block.get("content"))


def _tool_reference_text(block: dict[str, Any]) -> str | None:
    """Return the name of a tool that was found. All tools are offered from the start."""
    name = block.get("tool_name") or block.get("name")
    return f"Tool: {name}" if isinstance(name, str) else None


def _compaction_text(block: dict[str, Any]) -> str | None:
    return _with_heading(block, text=block.get("content") or "")


def _with_heading(block: dict[str, Any], *fields: str, text: Any) -> str | None:
    """Return a text, or that of text blocks, below some fields of its block; None if it is none."""
    parts = [{"text": text}] if isinstance(text, str) else text
    if not isinstance(parts, list):
        return None
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    lines = [*(block.get(field) for field in fields), *texts]
    if not all(isinstance(each, str) for each in texts):
        return None
    return "\n".join(line for line in lines if isinstance(line, str))


_TEXTS: Mapping[str, Callable[[dict[str, Any]], str | None]] = {
    "compaction": _compaction_text,
    "document": _document_text,
    "search_result": _search_result_text,
    "tool_reference": _tool_reference_text,
}


def _as_text(block: Any) -> Any:
    """Convert a block to a text block if its content is text under another name."""
    if not isinstance(block, dict):
        raise wrong_type("a content block must be an object")
    kind = block.get("type")
    if not isinstance(kind, str):
        raise wrong_type("a content block must have a type")
    if len(kind) > _MAX_TYPE_CHARS:
        raise bad_value(f"there is no type {kind[:40]!r} of content blocks")
    read = _TEXTS.get(kind)
    text = None if read is None else read(block)
    return block if text is None else {"type": "text", "text": text}


def _text_only(block: Any) -> Any:
    """Check that a block holds text.

    Blocks of another type are valid in Anthropic's API, so they get another error than malformed
    ones.
    """
    block = _as_text(block)
    if block["type"] != "text":
        raise bad_value(f"this model takes no {block['type']!r} blocks here, only text")
    return block


def _text_as_blocks(content: Any) -> Any:
    """Convert a plain text to one text block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _none_as_empty(value: Any) -> Any:
    return [] if value is None else value


# Text-only content: the system prompt, and the results of tools.
TextBlocks = Annotated[
    list[Annotated[TextBlock, BeforeValidator(_text_only)]],
    FailFast(),
    at_most_of("max_content_parts"),
    BeforeValidator(_text_as_blocks),
    BeforeValidator(_none_as_empty, json_schema_input_type=str | list[TextBlock] | None),
]


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: Id
    content: TextBlocks = Field(default_factory=list)
    is_error: bool | None = None
    toolset_name: Ignored = None


_KINDS = {
    "text": "text",
    "thinking": "thinking",
    "redacted_thinking": "redacted_thinking",
    "tool_use": "tool_use",
    "server_tool_use": "tool_use",
    "mcp_tool_use": "tool_use",
    "tool_result": "tool_result",
    "tool_addition": "tool_change",
    "tool_removal": "tool_change",
}


def _kind(block: Any) -> str:
    kind = str(block.get("type")) if isinstance(block, dict) else str(block.type)
    other = "server_result" if kind.endswith("_tool_result") else "other"
    return _KINDS.get(kind, other)


ContentBlock = (
    TextBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ServerResultBlock
    | ToolChangeBlock
    | OtherBlock
)
ContentBlocks = Annotated[
    list[
        Annotated[
            Annotated[TextBlock, Tag("text")]
            | Annotated[ThinkingBlock, Tag("thinking")]
            | Annotated[RedactedThinkingBlock, Tag("redacted_thinking")]
            | Annotated[ToolUseBlock, Tag("tool_use")]
            | Annotated[ToolResultBlock, Tag("tool_result")]
            | Annotated[ServerResultBlock, Tag("server_result")]
            | Annotated[ToolChangeBlock, Tag("tool_change")]
            | Annotated[OtherBlock, Tag("other")],
            Discriminator(_kind),
            BeforeValidator(_as_text),
        ]
    ],
    FailFast(),
    at_most_of("max_content_parts"),
    BeforeValidator(_text_as_blocks, json_schema_input_type=str | list[ContentBlock]),
]
