"""A message in the making, as content blocks: one open at a time, in the order in which they come.

Whole answers and streams are both made of these events, so that they hold the same blocks.
"""

import hashlib
from typing import Any

from pydantic_core import from_json

from headrace.frontend.chat.message import MessagePart, ToolCallPart

Event = dict[str, Any]

THINKING, TEXT, TOOL_USE = "thinking", "text", "tool_use"
_DELTAS = {THINKING: "thinking_delta", TEXT: "text_delta", TOOL_USE: "input_json_delta"}
_FIELDS = {THINKING: "thinking", TEXT: "text", TOOL_USE: "partial_json"}


class ContentBlockBuilder:
    """content: the blocks that are finished, as a whole answer shows them.

    Nothing but the rest of a call is to come between its parts.
    """

    def __init__(self) -> None:
        self.content: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._spaces: list[str] = []  # of text, until more of it comes
        self._silence: list[str] = []  # of thoughts, until the first

    @property
    def has_calls(self) -> bool:
        """Whether a finished block is a call."""
        return any(block["type"] == TOOL_USE for block in self.content)

    def add(self, part: MessagePart) -> list[Event]:
        """The events that tell of what is added to the message."""
        events: list[Event] = []
        if part.reasoning:
            events += self._thoughts(part.reasoning)
        calls = list(part.tool_calls)
        while calls and calls[0].name is None:  # of a call that is open: before other text
            events += self._append(calls.pop(0).arguments)
        if part.content:
            events += self._text(part.content)
        for call in calls:
            events += self._call(call)
        return events

    def finish(self) -> list[Event]:
        """The events that end the message."""
        events = self._append("".join(self._spaces)) if self._kind() == TEXT else []
        return [*events, *self._close()]

    def _close(self) -> list[Event]:
        """The events that end the open block, if there is one."""
        self._spaces = []
        block = self._open
        if block is None:
            return []
        index, text = len(self.content), "".join(self._pieces)
        events: list[Event] = []
        if block["type"] == TOOL_USE:
            block = {**block, "input": _parsed(text)}
        elif block["type"] == THINKING:
            block = {**block, "thinking": text, "signature": _signature(text)}
            delta = {"type": "signature_delta", "signature": block["signature"]}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        else:
            block = {**block, "text": text}
        self.content.append(block)
        self._open, self._pieces = None, []
        return [*events, {"type": "content_block_stop", "index": index}]

    def _thoughts(self, text: str) -> list[Event]:
        """Models that do not think often mark an empty line as their thoughts: that is no block."""
        if self._kind() != THINKING:
            self._silence.append(text)
            if text.isspace():
                return []
            text, self._silence = "".join(self._silence), []
        block = {"type": THINKING, "thinking": "", "signature": ""}
        return [*self._more(block), *self._append(text)]

    def _text(self, text: str) -> list[Event]:
        """Spaces wait until text follows, so that around calls, where they say nothing, they make
        no blocks: clients would send those back, and other servers refuse them."""
        self._spaces.append(text)
        if text.isspace():
            return []
        text, self._spaces = "".join(self._spaces), []
        shown = text.rstrip()
        events = [*self._more({"type": TEXT, "text": ""}), *self._append(shown)]
        self._spaces = [text[len(shown) :]]
        return events

    def _call(self, call: ToolCallPart) -> list[Event]:
        events: list[Event] = []
        if call.name is not None:
            events = self._close()
            block: dict[str, Any] = {
                "type": TOOL_USE,
                "id": call.call_id,
                "name": call.name,
                "input": {},
            }
            events += self._more(block)
        return [*events, *self._append(call.arguments)]

    def _more(self, block: dict[str, Any]) -> list[Event]:
        """An open block of this kind: the one there is, or this new one."""
        if self._kind() == block["type"]:
            return []
        events = self._close()
        self._open = block
        start = {"type": "content_block_start", "index": len(self.content), "content_block": block}
        return [*events, start]

    def _append(self, text: str) -> list[Event]:
        kind = self._kind()
        if not text or kind is None:
            return []
        self._pieces.append(text)
        delta = {"type": _DELTAS[kind], _FIELDS[kind]: text}
        return [{"type": "content_block_delta", "index": len(self.content), "delta": delta}]

    def _kind(self) -> str | None:
        return None if self._open is None else self._open["type"]


def _parsed(arguments: str) -> Any:
    """A call's arguments; as far as they go, where the text was cut short. Clients read them from
    a stream in the same way."""
    try:
        return from_json(arguments, allow_inf_nan=False, allow_partial=True) if arguments else {}
    except ValueError:
        return {}


def _signature(thoughts: str) -> str:
    """Clients expect one, and send it back; it says no more than that the text is whole."""
    return hashlib.blake2b(thoughts.encode("utf-8", "replace"), digest_size=24).hexdigest()
