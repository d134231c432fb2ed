"""Items that are a text in the making: messages and reasoning."""

from collections.abc import Sequence
from typing import Any

from openai.types.responses import (
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseReasoningTextDeltaEvent,
    ResponseReasoningTextDoneEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
)

from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.schemas.responses import Item

Logprobs = Sequence[dict[str, Any]]


class TextItem:
    """An item with one part, a text. Its beginning is told when it is made.

    kind: the item's type. index: its place in the output.
    """

    kind: str
    delta_event: type[Any]
    done_event: type[Any]

    def __init__(self, item_id: str, index: int, events: EventWriter) -> None:
        self.item_id = item_id
        self.index = index
        self._events = events
        self._texts: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        begun = self.item("in_progress", is_empty=True)
        events.emit(ResponseOutputItemAddedEvent, item=begun, output_index=index)
        events.emit(ResponseContentPartAddedEvent, part=self.part(), **self._place)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self.item_id, "output_index": self.index, "content_index": 0}

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add(self, text: str, logprobs: Logprobs) -> None:
        self._texts.append(text)
        self.logprobs += logprobs
        self._events.emit(self.delta_event, delta=text, **self._place, **self.told(logprobs))

    def close(self, status: str, logprobs: Logprobs) -> None:
        """logprobs: of tokens that have added no text."""
        self.logprobs += logprobs
        told = self.told(self.logprobs)
        self._events.emit(self.done_event, text=self.text, **self._place, **told)
        self._events.emit(ResponseContentPartDoneEvent, part=self.part(), **self._place)
        self._events.emit(
            ResponseOutputItemDoneEvent, item=self.item(status), output_index=self.index
        )

    def told(self, logprobs: Logprobs) -> dict[str, Any]:
        """The fields about log probabilities in events of this kind."""
        raise NotImplementedError

    def part(self) -> Item:
        raise NotImplementedError

    def item(self, status: str, is_empty: bool = False) -> Item:
        raise NotImplementedError


class MessageItem(TextItem):
    kind = "message"
    delta_event = ResponseTextDeltaEvent
    done_event = ResponseTextDoneEvent

    def told(self, logprobs: Logprobs) -> dict[str, Any]:
        return {"logprobs": list(logprobs)}

    def part(self) -> Item:
        logprobs = self.logprobs or None
        return {"type": "output_text", "annotations": [], "text": self.text, "logprobs": logprobs}

    def item(self, status: str, is_empty: bool = False) -> Item:
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [] if is_empty else [self.part()],
            "phase": None,
        }


class ReasoningItem(TextItem):
    kind = "reasoning"
    delta_event = ResponseReasoningTextDeltaEvent
    done_event = ResponseReasoningTextDoneEvent

    def told(self, logprobs: Logprobs) -> dict[str, Any]:
        return {}

    def part(self) -> Item:
        return {"type": "reasoning_text", "text": self.text}

    def item(self, status: str, is_empty: bool = False) -> Item:
        return {
            "id": self.item_id,
            "type": "reasoning",
            "summary": [],
            "content": [] if is_empty else [self.part()],
            "encrypted_content": None,
            "status": status,
        }


TEXT_ITEMS: dict[str, type[TextItem]] = {"message": MessageItem, "reasoning": ReasoningItem}
