"""Translate the items of a conversation to the messages of a chat."""

from collections.abc import Iterable
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.responses import Item

Message = dict[str, Any]


def chat_messages(instructions: str | None, items: Iterable[Item]) -> list[Message]:
    """Return the messages; the reasoning, text and calls of one turn are one message.

    Raises BadRequest if a tool output has no call before it.
    """
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
        self._call_ids: set[str] = set()

    def add(self, item: Item) -> None:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                self._add_assistant_text(item)
            case "message":
                self._add_message(item)
            case "reasoning":
                self._add_reasoning(item)
            case "function_call":
                self._add_call(item["call_id"], item)
            case "function_call_output":
                self._add_result(item["call_id"], item["output"])
            case "mcp_call":
                self._add_call(item["id"], item)
                self._add_result(item["id"], mcp_result(item))

    def finish(self) -> list[Message]:
        self._end_turn()
        if not self._system:
            return self._messages
        system = {"role": "system", "content": "\n\n".join(self._system)}
        return [system, *self._messages]

    def _add_message(self, item: Item) -> None:
        self._end_turn()
        role = "system" if item["role"] == "developer" else item["role"]
        if role == "system" and not self._messages:
            self._system.append(_join_text(item))
        else:
            self._messages.append({"role": role, "content": _join_text(item)})

    def _add_assistant_text(self, item: Item) -> None:
        if "content" in self._turn or "tool_calls" in self._turn:
            self._end_turn()
        self._turn["content"] = _join_text(item)

    def _add_reasoning(self, item: Item) -> None:
        if "content" in self._turn or "tool_calls" in self._turn:
            self._end_turn()
        parts = item.get("content") or item["summary"]
        self._turn["reasoning"] = "".join(part["text"] for part in parts)

    def _add_call(self, call_id: str, item: Item) -> None:
        self._call_ids.add(call_id)
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": call_id, "type": "function", "function": function}
        self._turn.setdefault("tool_calls", []).append(call)

    def _add_result(self, call_id: str, output: str) -> None:
        if call_id not in self._call_ids:
            raise BadRequest("input: an output's call_id is that of no call before it.", "input")
        self._end_turn()
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": output})

    def _end_turn(self) -> None:
        if self._turn:
            # Many chat templates fail without content.
            self._messages.append({"role": "assistant", "content": "", **self._turn})
            self._turn = {}


def mcp_result(item: Item) -> str:
    """Return the result of a call as the model sees it."""
    if item.get("output") is not None:
        return str(item["output"])
    error = item.get("error")
    message = error.get("content") if isinstance(error, dict) else error
    return f"Error: {message or 'the call has failed'}"


def _join_text(item: Item) -> str:
    return "\n".join(part.get("text", part.get("refusal", "")) for part in item["content"])
