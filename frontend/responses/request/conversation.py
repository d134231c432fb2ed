"""The items of a conversation to the messages of a chat."""

import json
from collections.abc import Iterable
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.responses import Item

Message = dict[str, Any]


def chat_messages(instructions: str | None, items: Iterable[Item]) -> list[Message]:
    """The messages. BadRequest if an output belongs to no call.

    What a model has said in one turn (its reasoning, text and calls) is one message.
    """
    writer = _Writer(instructions)
    for item in items:
        writer.add(item)
    return writer.finish()


class _Writer:
    def __init__(self, instructions: str | None) -> None:
        # Many templates know one system message only, and only at the beginning.
        self._system = [] if instructions is None else [instructions]
        self._messages: list[Message] = []
        self._turn: Message = {}
        self._calls: set[str] = set()

    def add(self, item: Item) -> None:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                self._say(item)
            case "message":
                self._hear(item)
            case "reasoning":
                self._think(item)
            case "function_call":
                self._call(item["call_id"], item)
            case "function_call_output":
                self._result(item["call_id"], item["output"])
            case "mcp_call":
                self._call(item["id"], item)
                self._result(item["id"], mcp_result(item))

    def finish(self) -> list[Message]:
        self._end_turn()
        if not self._system:
            return self._messages
        system = {"role": "system", "content": "\n\n".join(self._system)}
        return [system, *self._messages]

    def _hear(self, item: Item) -> None:
        self._end_turn()
        role = "system" if item["role"] == "developer" else item["role"]
        if role == "system" and not self._messages:
            self._system.append(_text_of(item))
        else:
            self._messages.append({"role": role, "content": _text_of(item)})

    def _say(self, item: Item) -> None:
        if "content" in self._turn or "tool_calls" in self._turn:
            self._end_turn()
        self._turn["content"] = _text_of(item)

    def _think(self, item: Item) -> None:
        if "content" in self._turn or "tool_calls" in self._turn:
            self._end_turn()
        parts = item.get("content") or item["summary"]
        self._turn["reasoning"] = "".join(part["text"] for part in parts)

    def _call(self, call_id: str, item: Item) -> None:
        self._calls.add(call_id)
        function = {"name": item["name"], "arguments": _arguments(item["arguments"])}
        call = {"id": call_id, "type": "function", "function": function}
        self._turn.setdefault("tool_calls", []).append(call)

    def _result(self, call_id: str, output: str) -> None:
        if call_id not in self._calls:
            raise BadRequest("input: an output's call_id is that of no call before it.", "input")
        self._end_turn()
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": output})

    def _end_turn(self) -> None:
        if self._turn:
            # Many templates take a text for granted.
            self._messages.append({"role": "assistant", "content": "", **self._turn})
            self._turn = {}


def _arguments(text: str) -> str:
    """As templates can take them. A model may have been cut off, or have written no object: that
    is what it said, and no reason to end the conversation."""
    try:
        if isinstance(json.loads(text or "{}"), dict):
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps({"arguments": text})


def mcp_result(item: Item) -> str:
    """What the model is told that a call has come to."""
    if item.get("output") is not None:
        return str(item["output"])
    error = item.get("error")
    message = error.get("content") if isinstance(error, dict) else error
    return f"Error: {message or 'the call has failed'}"


def _text_of(item: Item) -> str:
    return "\n".join(part.get("text", part.get("refusal", "")) for part in item["content"])
