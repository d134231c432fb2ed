"""Turn the parts of messages into the items of a response's output and their events."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai.types.responses import (
    ResponseMcpCallCompletedEvent,
    ResponseMcpCallFailedEvent,
    ResponseMcpCallInProgressEvent,
    ResponseMcpListToolsCompletedEvent,
    ResponseMcpListToolsInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
)

from headrace.frontend.chat.message import MessagePart, ToolCallPart
from headrace.frontend.responses.output.call_items import (
    CALL_ITEMS,
    CLIENT_CALLS,
    CallItem,
    ItemTool,
)
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.ids import output_id
from headrace.frontend.responses.output.text_items import (
    TEXT_ITEMS,
    ItemStatus,
    Logprobs,
    TextItem,
    TextItemType,
)
from headrace.frontend.schemas.responses import Item


@dataclass(frozen=True, slots=True)
class ServerToolCall:
    """A call of a tool that the server runs. index: of the item in the output."""

    index: int
    name: str
    arguments: str


class OutputWriter:
    """Writes the output of a response.

    has_client_calls: whether the last turn has calls that the client must run.
    tools: by the name by which the model calls them; others are functions of this name.
    call_id: returns the id of a call that the client runs, given the item's index and the parser's
        id.
    seals_reasoning: whether reasoning is shown as encrypted content, too.
    """

    def __init__(
        self,
        response_id: str,
        events: EventWriter,
        tools: Mapping[str, ItemTool],
        call_id: Callable[[int, str], str],
        seals_reasoning: bool = False,
    ) -> None:
        self.output: list[Item] = []
        self.has_client_calls = False
        self._response_id = response_id
        self._events = events
        self._tools = tools
        self._call_id = call_id
        self._seals_reasoning = seals_reasoning
        self._open_text: TextItem | None = None
        self._open_call: CallItem | None = None
        self._logprobs: list[dict[str, Any]] = []
        self._pending_calls: list[ServerToolCall] = []
        self._turn_start = 0

    # Messages

    def add(self, part: MessagePart, logprobs: Logprobs = ()) -> None:
        """Add a part of a message. logprobs: of its tokens."""
        self._logprobs += logprobs
        if part.reasoning:
            self._add_text("reasoning", part.reasoning)
        if part.content:
            self._add_text("message", part.content)
        for call in part.tool_calls:
            self._add_call(call)

    def end_turn(self, is_truncated: bool) -> list[ServerToolCall]:
        """End a turn of the model and return the calls that the server must run."""
        if len(self.output) == self._turn_start:  # no output: the turn is an empty message
            self._open_text = self._begin("message")
        self._close("incomplete" if is_truncated else "completed")
        items = self.output[self._turn_start :]
        self.has_client_calls = any(item["type"] in CLIENT_CALLS for item in items)
        self._turn_start = len(self.output)
        calls, self._pending_calls = self._pending_calls, []
        return calls

    def abandon(self) -> None:
        """End the output early; open items become incomplete."""
        self._close("incomplete")
        for index, item in enumerate(self.output):
            if item.get("status") == "calling":
                item["status"] = "incomplete"
                self._done(index)

    def _add_text(self, kind: TextItemType, text: str) -> None:
        logprobs, self._logprobs = self._logprobs, []
        if self._open_text is None or self._open_text.kind != kind:
            self._close()
            self._open_text = self._begin(kind)
        self._open_text.add(text, logprobs)

    def _begin(self, kind: TextItemType) -> TextItem:
        index = len(self.output)
        item_id = output_id(self._response_id, kind, index)
        text_item = TEXT_ITEMS[kind](item_id, index, self._events, self._seals_reasoning)
        self.output.append(text_item.item("in_progress"))
        return text_item

    def _close(self, status: ItemStatus = "completed") -> None:
        """Close the open item, if there is one."""
        if self._open_text is not None:
            self._open_text.close(status, self._logprobs)
            self.output[self._open_text.index] = self._open_text.item(status)
            self._open_text = None
        if self._open_call is not None:
            self._end_call(self._open_call, status)
            self._open_call = None
        self._logprobs = []

    # Calls

    def _add_call(self, part: ToolCallPart) -> None:
        if part.name is not None:
            self._logprobs = []  # calls have no logprobs
            self._close()
            self._begin_call(part.name, part.call_id or "")
        if self._open_call is not None and part.arguments:
            self._open_call.add(part.arguments)

    def _begin_call(self, name: str, parser_id: str) -> None:
        index = len(self.output)
        tool = self._tools.get(name) or ItemTool("function_call", name)
        fields = tool.fields()
        if tool.kind in CLIENT_CALLS:
            fields = {"call_id": self._call_id(index, parser_id), **fields}
        item = self._item(index, tool.kind, **fields)
        self._open_call = CALL_ITEMS[tool.kind](item, index, self._events)
        self._added({**item, "status": "in_progress"})
        if tool.kind == "mcp_call":
            self._events.emit(ResponseMcpCallInProgressEvent, **self._location(index))

    def _end_call(self, call: CallItem, status: ItemStatus) -> None:
        item = self.output[call.index] = call.close(status)
        if item["type"] in CLIENT_CALLS or status != "completed":
            self._done(call.index)
        else:
            item["status"] = "calling"
            self._pending_calls.append(ServerToolCall(call.index, item["name"], item["arguments"]))

    def end_server_call(self, index: int, output: str | None, error: str | None) -> None:
        """Write the result of a call that the server has run."""
        shown_error = (
            None if error is None else {"type": "mcp_tool_execution_error", "content": error}
        )
        status = "failed" if error is not None else "completed"
        self.output[index] |= {"output": output, "error": shown_error, "status": status}
        event = ResponseMcpCallCompletedEvent if error is None else ResponseMcpCallFailedEvent
        self._events.emit(event, **self._location(index))
        self._done(index)

    def list_tools(self, label: str, tools: Sequence[Item]) -> None:
        """Write the item that lists the tools of a server. label: of the server."""
        index = len(self.output)
        item = self._item(index, "mcp_list_tools", server_label=label, tools=[])
        self._added(item)
        self._events.emit(ResponseMcpListToolsInProgressEvent, **self._location(index))
        item["tools"] = list(tools)
        self._events.emit(ResponseMcpListToolsCompletedEvent, **self._location(index))
        self._done(index)
        self._turn_start = len(self.output)

    # Items

    def _item(self, index: int, kind: str, **fields: Any) -> Item:
        return {"id": output_id(self._response_id, kind, index), "type": kind, **fields}

    def _location(self, index: int) -> dict[str, Any]:
        return {"item_id": self.output[index]["id"], "output_index": index}

    def _added(self, item: Item) -> None:
        self._events.emit(
            ResponseOutputItemAddedEvent, item=dict(item), output_index=len(self.output)
        )
        self.output.append(item)

    def _done(self, index: int) -> None:
        self._events.emit(ResponseOutputItemDoneEvent, item=self.output[index], output_index=index)
