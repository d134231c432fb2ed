"""Write the events of a response's stream: numbered, as server-sent events."""

import functools
from collections.abc import Callable
from typing import Any, get_args

from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseErrorEvent,
    ResponseFailedEvent,
    ResponseIncompleteEvent,
    ResponseInProgressEvent,
    ResponseQueuedEvent,
)
from pydantic import BaseModel

from headrace.frontend.errors import ApiError
from headrace.frontend.openai_api.common import encode_json

EventSink = Callable[[str], None]

LIFECYCLE_EVENTS: dict[str, type[BaseModel]] = {
    "created": ResponseCreatedEvent,
    "queued": ResponseQueuedEvent,
    "in_progress": ResponseInProgressEvent,
    "completed": ResponseCompletedEvent,
    "incomplete": ResponseIncompleteEvent,
    "failed": ResponseFailedEvent,
    # The API has no event for this; the response in the event has the status.
    "cancelled": ResponseIncompleteEvent,
}


class EventWriter:
    """Numbers events and passes them to a sink as text.

    sink: None to make no events.
    first: the sequence number of the first event.
    """

    def __init__(self, sink: EventSink | None, first: int = 0) -> None:
        self._sink = sink
        self._number = first

    def emit(self, event: type[BaseModel], **fields: Any) -> None:
        """Write the next event; its type and its sequence number are filled in."""
        if self._sink is None:
            return
        filled = event(type=event_name(event), sequence_number=self._number, **fields)
        self._number += 1
        data = filled.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if "response" in data:  # a float in the type, but strict clients expect an integer
            data["response"]["created_at"] = int(data["response"]["created_at"])
        self._sink(f"event: {event_name(event)}\ndata: {encode_json(data)}\n\n")

    def lifecycle(self, status: str, body: dict[str, Any]) -> None:
        """Write the event of a response's status. body: the response."""
        self.emit(LIFECYCLE_EVENTS[status], response=body)

    def error(self, error: ApiError) -> None:
        """Write an error event, which ends the stream without a response."""
        fields = {"message": error.message, "param": error.param}
        self.emit(ResponseErrorEvent, code="server_error", **fields)


@functools.cache
def event_name(event: type[BaseModel]) -> str:
    """Return the only value of the event's field `type`."""
    return str(get_args(event.model_fields["type"].annotation)[0])
