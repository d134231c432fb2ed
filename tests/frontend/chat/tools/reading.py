"""Read texts with a parser, as a whole and in pieces."""

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.frontend.chat.message import CollectedMessage
from headrace.frontend.chat.tools.available import find_parser
from headrace.frontend.chat.tools.reader import ToolCallReader
from headrace.frontend.chat.tools.tool_schemas import NO_SCHEMAS, ToolSchemas

Answer = tuple[str, list[tuple[str, str]]]


def schemas(**functions: Mapping[str, Any]) -> ToolSchemas:
    """Schemas of functions, by their parameters."""
    return ToolSchemas(
        {name: {"type": "object", "properties": each} for name, each in functions.items()}
    )


def message_of(spec: str, pieces: Sequence[str], tools: ToolSchemas) -> CollectedMessage:
    reader, message = ToolCallReader(find_parser(spec), tools=tools), CollectedMessage()
    for piece in pieces:
        message.add(reader.feed(piece))
    message.add(reader.finish())
    return message


def read(spec: str, pieces: Sequence[str], tools: ToolSchemas = NO_SCHEMAS) -> Answer:
    """Content, and calls as (name, arguments)."""
    message = message_of(spec, pieces, tools)
    return message.content, [(call.name, call.arguments) for call in message.tool_calls]


def read_both(spec: str, text: str, tools: ToolSchemas = NO_SCHEMAS) -> Answer:
    """What the text is as a whole and, the same, by the character."""
    whole = read(spec, [text], tools)
    assert read(spec, list(text), tools) == whole
    return whole
