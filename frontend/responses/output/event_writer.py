"""Events of a response's stream: numbered, and written as server-sent events."""

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

LIFECYCLE: dict[str, type[BaseModel]] = {
    "created": ResponseCreatedEvent,
    "queued": ResponseQueuedEvent,
    "in_progress": ResponseInProgressEvent,
    "completed": ResponseCompletedEvent,
    "incomplete": ResponseIncompleteEvent,
    "failed": ResponseFailedEvent,
    # There is no event of its own for this; the response in it says what it is.
    "cancelled": ResponseIncompleteEvent,
}


class EventWriter:
    """sink: takes each event as text. None: nobody wants them, and none is made.

    first: the number of the first one.
    """

    def __init__(self, sink: EventSink | None, first: int = 0) -> None:
        self._sink = sink
        self._number = first

    def emit(self, event: type[BaseModel], **fields: Any) -> None:
        """Write the next event; its type and its number are filled in."""
        if self._sink is None:
            return
        made = event(type=event_name(event), sequence_number=self._number, **fields)
        self._number += 1
        data = made.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if "response" in data:  # the type's float; strict clients read it as an integer
            data["response"]["created_at"] = int(data["response"]["created_at"])
        self._sink(f"event: {event_name(event)}\ndata: {encode_json(data)}\n\n")

    def lifecycle(self, status: str, body: dict[str, Any]) -> None:
        """The event that tells of a response's status. body: the response."""
        self.emit(LIFECYCLE[status], response=body)

    def error(self, error: ApiError) -> None:
        """A last event that is no response's."""
        fields = {"message": error.message, "param": error.param}
        self.emit(ResponseErrorEvent, code="server_error", **fields)


@functools.cache
def event_name(event: type[BaseModel]) -> str:
    """The one value of the event's field `type`."""
    return str(get_args(event.model_fields["type"].annotation)[0])
