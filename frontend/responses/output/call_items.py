"""Build the items that stream calls: of functions, of custom tools, and of a server's tools."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from openai.types.responses import (
    ResponseCustomToolCallInputDeltaEvent,
    ResponseCustomToolCallInputDoneEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseMcpCallArgumentsDeltaEvent,
    ResponseMcpCallArgumentsDoneEvent,
)

from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.text_items import ItemStatus
from headrace.frontend.responses.request.custom_input import InputDecoder
from headrace.frontend.schemas.responses import Item

CallItemType = Literal["function_call", "custom_tool_call", "tool_search_call", "mcp_call"]


# What an item of each type holds before the model has written arguments.
EMPTY_CALLS: dict[CallItemType, Item] = {
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "tool_search_call": {"execution": "client", "arguments": {}},
    "mcp_call": {"arguments": "", "output": None, "error": None},
}
# The types of calls that the client runs.
CLIENT_CALLS = EMPTY_CALLS.keys() - {"mcp_call"}


@dataclass(frozen=True, slots=True)
class ItemTool:
    """A tool as the items of its calls name it.

    kind: the type of the items. server_label: of the server that runs it; None if the client does.
    """

    kind: CallItemType
    name: str
    namespace: str | None = None
    server_label: str | None = None

    def fields(self) -> Item:
        """Return the fields of an item that names this tool, before it has arguments."""
        fields: Item = {**EMPTY_CALLS[self.kind]}
        if self.kind != "tool_search_call":
            fields["name"] = self.name
        if self.namespace is not None:
            fields["namespace"] = self.namespace
        if self.server_label is not None:
            fields["server_label"] = self.server_label
        return fields


class CallItem:
    """The item of a call of a function, under construction.

    item: as it is now, without its arguments. index: its index in the output.
    """

    delta_event: type[Any] = ResponseFunctionCallArgumentsDeltaEvent
    done_event: type[Any] = ResponseFunctionCallArgumentsDoneEvent

    def __init__(self, item: Item, index: int, events: EventWriter) -> None:
        self.item = item
        self.index = index
        self._events = events
        self._pieces: list[str] = []

    def add(self, arguments: str) -> None:
        """Append a piece of the arguments that the model writes."""
        self._append(arguments)

    def close(self, status: ItemStatus) -> Item:
        """Emit the end of the arguments and return the complete item."""
        arguments = "".join(self._pieces)
        self._emit_done(arguments)
        return {**self.item, "arguments": arguments, "status": status}

    def _append(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._events.emit(self.delta_event, delta=piece, **self._location)

    def _emit_done(self, arguments: str) -> None:
        self._events.emit(
            self.done_event, arguments=arguments, name=self.item["name"], **self._location
        )

    @property
    def _location(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": self.index}


class ServerCallItem(CallItem):
    """The item of a call of a server's tool."""

    delta_event = ResponseMcpCallArgumentsDeltaEvent
    done_event = ResponseMcpCallArgumentsDoneEvent

    def _emit_done(self, arguments: str) -> None:
        self._events.emit(self.done_event, arguments=arguments, **self._location)


class CustomCallItem(CallItem):
    """The item of a call of a custom tool: its input is decoded from the arguments."""

    delta_event = ResponseCustomToolCallInputDeltaEvent
    done_event = ResponseCustomToolCallInputDoneEvent

    def __init__(self, item: Item, index: int, events: EventWriter) -> None:
        super().__init__(item, index, events)
        self._decoder = InputDecoder()

    def add(self, arguments: str) -> None:
        self._append(self._decoder.feed(arguments))

    def close(self, status: ItemStatus) -> Item:
        self._append(self._decoder.finish())
        text = "".join(self._pieces)
        self._events.emit(self.done_event, input=text, **self._location)
        return {**self.item, "input": text, "status": status}


class ToolSearchCallItem(CallItem):
    """The item of a search for tools, which has no events of its own."""

    def _append(self, piece: str) -> None:
        self._pieces.append(piece)

    def close(self, status: ItemStatus) -> Item:
        return {**self.item, "arguments": _as_object("".join(self._pieces)), "status": status}


def _as_object(arguments: str) -> Item:
    """Return arguments as an object; text that is not one is what is searched for."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return {"query": arguments}
    return parsed if isinstance(parsed, dict) else {"query": arguments}


CALL_ITEMS: dict[CallItemType, type[CallItem]] = {
    "function_call": CallItem,
    "custom_tool_call": CustomCallItem,
    "tool_search_call": ToolSearchCallItem,
    "mcp_call": ServerCallItem,
}
