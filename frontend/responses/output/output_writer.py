"""What a model says, as it comes, to the items of a response's output and the events that tell of
them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai.types.responses import (
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseMcpCallArgumentsDeltaEvent,
    ResponseMcpCallArgumentsDoneEvent,
    ResponseMcpCallCompletedEvent,
    ResponseMcpCallFailedEvent,
    ResponseMcpCallInProgressEvent,
    ResponseMcpListToolsCompletedEvent,
    ResponseMcpListToolsInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
)

from headrace.frontend.chat.message import MessagePart, ToolCallPart
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.ids import output_id
from headrace.frontend.responses.output.text_items import TEXT_ITEMS, TextItem
from headrace.frontend.schemas.responses import Item

Logprobs = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ServerToolCall:
    """A call of a tool that the server runs. index: of its item in the output."""

    index: int
    name: str
    arguments: str


class OutputWriter:
    """asks_client: whether the last turn has calls that the client is to run.

    labels: for tools that the server runs, the label of their server by the tool's name.

    call_id: gives a function call its id; is told the item's index and what the parser calls it.
    """

    def __init__(
        self,
        response_id: str,
        events: EventWriter,
        labels: Mapping[str, str],
        call_id: Callable[[int, str], str],
    ) -> None:
        self.output: list[Item] = []
        self.asks_client = False
        self._response_id = response_id
        self._events = events
        self._labels = labels
        self._call_id = call_id
        self._text: TextItem | None = None
        self._call: int | None = None  # index of the item whose arguments come
        self._arguments: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._to_run: list[ServerToolCall] = []
        self._turn_start = 0

    # What a model says

    def add(self, part: MessagePart, logprobs: Logprobs = ()) -> None:
        """A part of a message. logprobs: of the tokens that it comes from."""
        self._logprobs += logprobs
        if part.reasoning:
            self._say("reasoning", part.reasoning)
        if part.content:
            self._say("message", part.content)
        for call in part.tool_calls:
            self._add_call(call)

    def end_turn(self, is_cut: bool) -> list[ServerToolCall]:
        """The model has ended, or was cut off. Returns the calls that the server is to run."""
        if len(self.output) == self._turn_start:  # it has said nothing: that is its message
            self._text = self._begin("message")
        self._close("incomplete" if is_cut else "completed")
        said = self.output[self._turn_start :]
        self.asks_client = any(item["type"] == "function_call" for item in said)
        self._turn_start = len(self.output)
        to_run, self._to_run = self._to_run, []
        return to_run

    def abandon(self) -> None:
        """There will be no more: what is open stays incomplete."""
        self._close("incomplete")
        for index, item in enumerate(self.output):
            if item.get("status") == "calling":
                item["status"] = "incomplete"
                self._done(index)

    def _say(self, kind: str, text: str) -> None:
        logprobs, self._logprobs = self._logprobs, []
        if self._text is None or self._text.kind != kind:
            self._close()
            self._text = self._begin(kind)
        self._text.add(text, logprobs)

    def _begin(self, kind: str) -> TextItem:
        index = len(self.output)
        item_id = output_id(self._response_id, kind, index)
        opened = TEXT_ITEMS[kind](item_id, index, self._events)
        self.output.append(opened.item("in_progress"))
        return opened

    def _close(self, status: str = "completed") -> None:
        """End the item that is being written, if there is one."""
        if self._text is not None:
            self._text.close(status, self._logprobs)
            self.output[self._text.index] = self._text.item(status)
            self._text = None
        if self._call is not None:
            self._end_call(self._call, status)
        self._logprobs = []

    # Calls

    def _add_call(self, part: ToolCallPart) -> None:
        if part.name is not None:
            self._logprobs = []  # no item of this kind has any
            self._close()
            self._begin_call(part.name, part.call_id or "")
        if self._call is not None and part.arguments:
            self._arguments.append(part.arguments)
            delta, _ = _ARGUMENT_EVENTS[self.output[self._call]["type"]]
            self._events.emit(delta, delta=part.arguments, **self._place(self._call))

    def _begin_call(self, name: str, given_id: str) -> None:
        index = self._call = len(self.output)
        self._arguments = []
        if name in self._labels:
            item = self._item(index, "mcp_call", server_label=self._labels[name], name=name)
            item |= {"arguments": "", "output": None, "error": None}
        else:
            call_id = self._call_id(index, given_id)
            item = self._item(index, "function_call", call_id=call_id, name=name, arguments="")
        self._added({**item, "status": "in_progress"})
        if name in self._labels:
            self._events.emit(ResponseMcpCallInProgressEvent, **self._place(index))

    def _end_call(self, index: int, status: str) -> None:
        arguments = "".join(self._arguments)
        item = self.output[index] = {
            **self.output[index],
            "arguments": arguments,
            "status": status,
        }
        _, done = _ARGUMENT_EVENTS[item["type"]]
        name = {"name": item["name"]} if item["type"] == "function_call" else {}
        self._events.emit(done, arguments=arguments, **name, **self._place(index))
        self._call = None
        if item["type"] == "function_call" or status != "completed":
            self._done(index)
        else:
            item["status"] = "calling"
            self._to_run.append(ServerToolCall(index, item["name"], arguments))

    def end_server_call(self, index: int, output: str | None, error: str | None) -> None:
        """What has become of a call that the server has run."""
        told = None if error is None else {"type": "mcp_tool_execution_error", "content": error}
        status = "failed" if error is not None else "completed"
        self.output[index] |= {"output": output, "error": told, "status": status}
        event = ResponseMcpCallCompletedEvent if error is None else ResponseMcpCallFailedEvent
        self._events.emit(event, **self._place(index))
        self._done(index)

    def list_tools(self, label: str, tools: Sequence[Item]) -> None:
        """The item that tells which tools a server has."""
        index = len(self.output)
        item = self._item(index, "mcp_list_tools", server_label=label, tools=[])
        self._added(item)
        self._events.emit(ResponseMcpListToolsInProgressEvent, **self._place(index))
        item["tools"] = list(tools)
        self._events.emit(ResponseMcpListToolsCompletedEvent, **self._place(index))
        self._done(index)
        self._turn_start = len(self.output)

    # Items

    def _item(self, index: int, kind: str, **fields: Any) -> Item:
        return {"id": output_id(self._response_id, kind, index), "type": kind, **fields}

    def _place(self, index: int) -> dict[str, Any]:
        return {"item_id": self.output[index]["id"], "output_index": index}

    def _added(self, item: Item) -> None:
        self._events.emit(
            ResponseOutputItemAddedEvent, item=dict(item), output_index=len(self.output)
        )
        self.output.append(item)

    def _done(self, index: int) -> None:
        self._events.emit(ResponseOutputItemDoneEvent, item=self.output[index], output_index=index)


_ARGUMENT_EVENTS: dict[str, tuple[type[Any], type[Any]]] = {
    "function_call": (
        ResponseFunctionCallArgumentsDeltaEvent,
        ResponseFunctionCallArgumentsDoneEvent,
    ),
    "mcp_call": (ResponseMcpCallArgumentsDeltaEvent, ResponseMcpCallArgumentsDoneEvent),
}
