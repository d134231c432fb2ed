"""Build the items that stream text: messages and reasoning."""

from collections.abc import Sequence
from typing import Any, Literal

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
from headrace.frontend.responses.request.sealed_text import seal
from headrace.frontend.schemas.responses import Item

Logprobs = Sequence[dict[str, Any]]
TextItemType = Literal["message", "reasoning"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class TextItem:
    """An item with one text part, under construction; making it emits its first events.

    kind: the item's type. index: its index in the output.
    is_sealed: whether reasoning is shown as encrypted content, too.
    """

    kind: TextItemType
    delta_event: type[Any]
    done_event: type[Any]

    def __init__(
        self, item_id: str, index: int, events: EventWriter, is_sealed: bool = False
    ) -> None:
        self.item_id = item_id
        self.index = index
        self.is_sealed = is_sealed
        self._events = events
        self._texts: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        started = self.item("in_progress", is_empty=True)
        events.emit(ResponseOutputItemAddedEvent, item=started, output_index=index)
        events.emit(ResponseContentPartAddedEvent, part=self.part(), **self._location)

    @property
    def _location(self) -> dict[str, Any]:
        return {"item_id": self.item_id, "output_index": self.index, "content_index": 0}

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add(self, text: str, logprobs: Logprobs) -> None:
        """Append text and emit its delta."""
        self._texts.append(text)
        self.logprobs += logprobs
        self._events.emit(
            self.delta_event, delta=text, **self._location, **self.logprob_fields(logprobs)
        )

    def close(self, status: ItemStatus, logprobs: Logprobs) -> None:
        """Emit the events that end the item. logprobs: of tokens that have added no text."""
        self.logprobs += logprobs
        fields = self.logprob_fields(self.logprobs)
        self._events.emit(self.done_event, text=self.text, **self._location, **fields)
        self._events.emit(ResponseContentPartDoneEvent, part=self.part(), **self._location)
        self._events.emit(
            ResponseOutputItemDoneEvent, item=self.item(status), output_index=self.index
        )

    def logprob_fields(self, logprobs: Logprobs) -> dict[str, Any]:
        """Return the fields for log probabilities in the events of this type."""
        raise NotImplementedError

    def part(self) -> Item:
        """Return the text part as it is now."""
        raise NotImplementedError

    def item(self, status: ItemStatus, is_empty: bool = False) -> Item:
        """Return the item as it is now. is_empty: without the text part."""
        raise NotImplementedError


class MessageItem(TextItem):
    """A message of the assistant."""

    kind: TextItemType = "message"
    delta_event = ResponseTextDeltaEvent
    done_event = ResponseTextDoneEvent

    def logprob_fields(self, logprobs: Logprobs) -> dict[str, Any]:
        return {"logprobs": list(logprobs)}

    def part(self) -> Item:
        logprobs = self.logprobs or None
        return {"type": "output_text", "annotations": [], "text": self.text, "logprobs": logprobs}

    def item(self, status: ItemStatus, is_empty: bool = False) -> Item:
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [] if is_empty else [self.part()],
            "phase": None,
        }


class ReasoningItem(TextItem):
    """Reasoning, which has no log probabilities."""

    kind: TextItemType = "reasoning"
    delta_event = ResponseReasoningTextDeltaEvent
    done_event = ResponseReasoningTextDoneEvent

    def logprob_fields(self, logprobs: Logprobs) -> dict[str, Any]:
        return {}

    def part(self) -> Item:
        return {"type": "reasoning_text", "text": self.text}

    def item(self, status: ItemStatus, is_empty: bool = False) -> Item:
        is_sealed = self.is_sealed and status != "in_progress"
        return {
            "id": self.item_id,
            "type": "reasoning",
            "summary": [],
            "content": [] if is_empty else [self.part()],
            "encrypted_content": seal(self.text) if is_sealed else None,
            "status": status,
        }


TEXT_ITEMS: dict[TextItemType, type[TextItem]] = {
    "message": MessageItem,
    "reasoning": ReasoningItem,
}
