"""Serialize the responses of /v1/messages."""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from headrace.frontend.anthropic_api.content_blocks import ContentBlockBuilder, Event
from headrace.frontend.chat.chat_run import ChatRun, MessageDelta
from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.middleware import request_scope
from headrace.frontend.openai_api.common import encode_json

_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}


class MessagesSerializer:
    """Serializes the response to one request, as a full body or as events."""

    def __init__(self, run: ChatRun) -> None:
        self._run = run
        self._id = request_scope.register_response_id(f"msg_{secrets.token_hex(12)}")
        self._choice = run.generation.choices[0]
        self._blocks = ContentBlockBuilder()

    async def full_body(self) -> dict[str, Any]:
        """Run the chat and return the message. Raises the generation's errors."""
        stop: dict[str, Any] = {}
        async for _, message_delta in self._run.deltas():
            self._blocks.add(message_delta.part)
            if message_delta.finish_reason is not None:
                self._blocks.finish()
                stop = self._stop_fields(message_delta)
        message = self._message(self._blocks.content, self._usage(self._choice.completion_tokens))
        return {**message, **stop}

    def _message(self, content: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._run.model.name,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": usage,
        }

    def _usage(self, output_tokens: int) -> dict[str, int]:
        """Return the usage; a prompt token counts as read from the cache, written to it, or input.

        All prompts are cached, whether clients ask for it or not.
        """
        cached, written = self._choice.cached_tokens, self._choice.written_tokens
        return {
            "input_tokens": len(self._run.prompt.token_ids) - cached - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": cached,
            "output_tokens": output_tokens,
        }

    def _stop_fields(self, message_delta: MessageDelta) -> dict[str, Any]:
        """Return the fields that say why the message ended.

        A chat with tool calls need not finish with "tool_calls", hence the look at its blocks.
        """
        matched = message_delta.delta.stop_reason
        if message_delta.delta.finish_reason == "stop" and matched in self._run.request.stop:
            return {"stop_reason": "stop_sequence", "stop_sequence": matched}
        reason = _STOP_REASONS.get(message_delta.finish_reason or "", "end_turn")
        if reason == "end_turn" and self._blocks.has_calls:
            reason = "tool_use"
        return {"stop_reason": reason, "stop_sequence": None}

    # Events

    def first(self, choices: Sequence[Choice]) -> str:
        """Return the event that begins the message."""
        message = self._message([], self._usage(output_tokens=0))
        return serialize_events([{"type": "message_start", "message": message}])

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str:
        """Return the events of a delta; "" if nothing can be sent yet."""
        message_delta = self._run.read(choice, delta)
        events = self._blocks.add(message_delta.part)
        if message_delta.finish_reason is not None:
            events += self._blocks.finish()
            stop = self._stop_fields(message_delta)
            usage = self._usage(choice.completion_tokens)
            events.append({"type": "message_delta", "delta": stop, "usage": usage})
        return serialize_events(events)

    def last(self, choices: Sequence[Choice]) -> str:
        """Return the event that ends the message."""
        return serialize_events([{"type": "message_stop"}])


def serialize_events(events: Iterable[Event]) -> str:
    """Encode events as server-sent events; the type is in the event line and in the data."""
    return "".join(f"event: {event['type']}\ndata: {encode_json(event)}\n\n" for event in events)
