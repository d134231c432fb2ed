"""Build a message's content blocks, one open at a time, in the order in which they come.

Full bodies and streams are both made of these events, so that they hold the same blocks.
"""

import hashlib
import math
import sys
from typing import Any, Final, Literal

from pydantic_core import from_json

from headrace.frontend.chat.message import MessagePart, ToolCallPart

Event = dict[str, Any]
BlockType = Literal["thinking", "text", "tool_use"]

THINKING: Final = "thinking"
TEXT: Final = "text"
TOOL_USE: Final = "tool_use"
_DELTA_TYPES: dict[BlockType, str] = {
    THINKING: "thinking_delta",
    TEXT: "text_delta",
    TOOL_USE: "input_json_delta",
}
_DELTA_FIELDS: dict[BlockType, str] = {THINKING: "thinking", TEXT: "text", TOOL_USE: "partial_json"}


class ContentBlockBuilder:
    """Turns the parts of a message into content blocks and the events of their stream.

    content: the finished blocks, as a full body shows them.
    The parts of a tool call must follow each other.
    """

    def __init__(self) -> None:
        self.content: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._pending_space: list[str] = []  # trailing white space of text, until more text comes
        self._blank_reasoning: list[str] = []  # white space before the first reasoning
        self._input = InputText()

    @property
    def has_calls(self) -> bool:
        """Whether a finished block is a tool call."""
        return any(block["type"] == TOOL_USE for block in self.content)

    def add(self, part: MessagePart) -> list[Event]:
        """Add a part of the message and return its events."""
        events: list[Event] = []
        if part.reasoning:
            events += self._add_reasoning(part.reasoning)
        calls = list(part.tool_calls)
        while calls and calls[0].name is None:  # the rest of the open call, before other text
            events += self._append(self._input.add(calls.pop(0).arguments))
        if part.content:
            events += self._add_text(part.content)
        for call in calls:
            events += self._add_call(call)
        return events

    def finish(self) -> list[Event]:
        """Close the last block and return its events.

        White space is the answer if it has neither other text nor calls.
        """
        space, events = "".join(self._pending_space), list[Event]()
        is_answer = self._open_type() in (None, THINKING) and not self._has_answer
        if space and is_answer:
            events += self._open_block({"type": TEXT, "text": ""})
        if self._open_type() == TEXT:
            events += self._append(space)
        return [*events, *self._close()]

    @property
    def _has_answer(self) -> bool:
        return any(block["type"] != THINKING for block in self.content)

    def _close(self) -> list[Event]:
        """Close the open block, if there is one, and return its events."""
        self._pending_space = []
        block = self._open
        if block is None:
            return []
        index, text = len(self.content), "".join(self._pieces)
        events: list[Event] = []
        if block["type"] == TOOL_USE:
            rest = self._input.end()
            events += self._append(rest)
            block = {**block, "input": _parse_arguments(text + rest)}
        elif block["type"] == THINKING:
            block = {**block, "thinking": text, "signature": _signature(text)}
            delta = {"type": "signature_delta", "signature": block["signature"]}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        else:
            block = {**block, "text": text}
        self.content.append(block)
        self._open, self._pieces = None, []
        return [*events, {"type": "content_block_stop", "index": index}]

    def _add_reasoning(self, text: str) -> list[Event]:
        """Add reasoning; white space alone makes no block.

        Models that do not think often output an empty line between the reasoning delimiters.
        """
        if self._open_type() != THINKING:
            self._blank_reasoning.append(text)
            if text.isspace():
                return []
            text, self._blank_reasoning = "".join(self._blank_reasoning), []
        block = {"type": THINKING, "thinking": "", "signature": ""}
        return [*self._open_block(block), *self._append(text)]

    def _add_text(self, text: str) -> list[Event]:
        """Add text; white space waits until text follows.

        White space around tool calls thus makes no blocks of its own: clients would send those
        back, and other servers reject them.
        """
        self._pending_space.append(text)
        if text.isspace():
            return []
        text, self._pending_space = "".join(self._pending_space), []
        shown = text.rstrip()
        events = [*self._open_block({"type": TEXT, "text": ""}), *self._append(shown)]
        self._pending_space = [text[len(shown) :]]
        return events

    def _add_call(self, call: ToolCallPart) -> list[Event]:
        events: list[Event] = []
        if call.name is not None:
            events = self._close()
            block: dict[str, Any] = {
                "type": TOOL_USE,
                "id": call.call_id,
                "name": call.name,
                "input": {},
            }
            events += self._open_block(block)
            self._input = InputText()
        return [*events, *self._append(self._input.add(call.arguments))]

    def _open_block(self, block: dict[str, Any]) -> list[Event]:
        """Open a block, unless one of its type is open, and return the events."""
        if self._open_type() == block["type"]:
            return []
        events = self._close()
        self._open = block
        start = {"type": "content_block_start", "index": len(self.content), "content_block": block}
        return [*events, start]

    def _append(self, text: str) -> list[Event]:
        block_type = self._open_type()
        if not text or block_type is None:
            return []
        self._pieces.append(text)
        delta = {"type": _DELTA_TYPES[block_type], _DELTA_FIELDS[block_type]: text}
        return [{"type": "content_block_delta", "index": len(self.content), "delta": delta}]

    def _open_type(self) -> BlockType | None:
        return None if self._open is None else self._open["type"]


class InputText:
    """Passes the arguments of a call on as the text of an object, which is what `input` must be.

    Any other value becomes a member of one.
    """

    def __init__(self) -> None:
        self._blank = ""
        self._value: list[str] | None = None  # a value that is not an object
        self._has_begun = False

    def add(self, arguments: str) -> str:
        """Return the text to append for a piece of the arguments."""
        if not self._has_begun:
            self._blank += arguments
            if not self._blank.strip():
                return ""
            self._has_begun, arguments = True, self._blank
            if arguments.lstrip()[0] != "{":
                self._value = [arguments]
                return '{"arguments": ' + arguments
        elif self._value is not None:
            self._value.append(arguments)
        return arguments

    def end(self) -> str:
        """Return the text to append at the end of the arguments; "" if they are not complete."""
        if self._value is None:
            return ""
        try:
            from_json("".join(self._value), allow_inf_nan=False)
        except ValueError:
            return ""
        return "}"


def _parse_arguments(arguments: str) -> Any:
    """Parse a call's arguments; of truncated JSON the complete part, as streaming clients do."""
    try:
        parsed = from_json(arguments, allow_inf_nan=False, allow_partial=True) if arguments else {}
    except ValueError:
        return {}
    return _finite(parsed)


def _finite(value: Any) -> Any:
    """Return a value with the nearest numbers in place of those that no JSON can hold."""
    if isinstance(value, float) and math.isinf(value):
        return math.copysign(sys.float_info.max, value)
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return value


def _signature(reasoning: str) -> str:
    """Return a checksum as the signature of a thinking block: clients expect one, and return it."""
    return hashlib.blake2b(reasoning.encode("utf-8", "replace"), digest_size=24).hexdigest()
