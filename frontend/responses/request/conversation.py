"""Translate the items of a conversation to the messages of a chat."""

from collections.abc import Iterable
from typing import Any

from headrace.frontend.responses.request.item_calls import HistoryCall, HistoryResult, read_call
from headrace.frontend.responses.request.item_fields import part_text
from headrace.frontend.responses.request.sealed_text import unseal
from headrace.frontend.schemas.responses import Item

Message = dict[str, Any]

# Precedes what a conversation was compacted to.
COMPACTED = "Summary of the conversation so far:\n\n"


def chat_messages(instructions: str | None, items: Iterable[Item]) -> list[Message]:
    """Return the messages; the reasoning, text and calls of one turn are one message."""
    builder = _MessageBuilder(instructions)
    for item in items:
        builder.add(item)
    return builder.finish()


class _MessageBuilder:
    def __init__(self, instructions: str | None) -> None:
        # Many chat templates take a single system message, at the beginning only.
        self._system = [] if instructions is None else [instructions]
        self._messages: list[Message] = []
        self._turn: Message = {}

    def add(self, item: Item) -> None:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                self._add_assistant_text(item)
            case "message":
                self._add_message(item["role"], join_text(item))
            case "reasoning":
                self._add_reasoning(item)
            case "compaction":
                self._add_message("user", COMPACTED + (unseal(item["encrypted_content"]) or ""))
            case _:
                self._add_tool_item(read_call(item))

    def _add_tool_item(self, read: HistoryCall | HistoryResult | None) -> None:
        match read:
            case HistoryCall(call_id, name, arguments, output):
                self._add_call(call_id, name, arguments)
                if output is not None:
                    self._add_result(call_id, output)
            case HistoryResult(call_id, output):
                self._add_result(call_id, output)

    def finish(self) -> list[Message]:
        self._end_turn()
        if not self._system:
            return self._messages
        system = {"role": "system", "content": "\n\n".join(self._system)}
        return [system, *self._messages]

    def _add_message(self, role: str, text: str) -> None:
        self._end_turn()
        role = "system" if role == "developer" else role
        if role == "system" and not self._messages:
            self._system.append(text)
        else:
            self._messages.append({"role": role, "content": text})

    def _add_assistant_text(self, item: Item) -> None:
        if "content" in self._turn or "tool_calls" in self._turn:
            self._end_turn()
        self._turn["content"] = join_text(item)

    def _add_reasoning(self, item: Item) -> None:
        if "content" in self._turn or "tool_calls" in self._turn:
            self._end_turn()
        parts = item.get("content") or item["summary"]
        if text := "".join(part["text"] for part in parts):
            self._turn["reasoning"] = text

    def _add_call(self, call_id: str, name: str, arguments: str) -> None:
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self._turn.setdefault("tool_calls", []).append(call)

    def _add_result(self, call_id: str, output: str) -> None:
        """Add the result of a call, which a client may have dropped from the conversation."""
        self._end_turn()
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": output})

    def _end_turn(self) -> None:
        if self._turn:
            # Many chat templates fail without content.
            self._messages.append({"role": "assistant", "content": "", **self._turn})
            self._turn = {}


def join_text(item: Item) -> str:
    """Return the text of a message."""
    return "\n".join(part_text(part) for part in item["content"])
