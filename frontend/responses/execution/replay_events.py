"""Make the events of a response that ran without a stream, from its finished body."""

import json
from typing import Any

from headrace.frontend.chat.message import MessagePart, ToolCallPart
from headrace.frontend.responses.output.call_items import CALL_ITEMS, ItemTool
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.output_writer import OutputWriter
from headrace.frontend.responses.output.response_body import IN_PROGRESS, ResponseBody, with_status
from headrace.frontend.responses.request.client_tools import TOOL_SEARCH, flat_name
from headrace.frontend.responses.request.custom_input import encode_input
from headrace.frontend.schemas.responses import Item


def replay_events(body: ResponseBody) -> list[str]:
    """Return the events of a finished response; each text comes in one delta."""
    written: list[str] = []
    events = EventWriter(written.append)
    started = {**with_status(body, IN_PROGRESS), "usage": None, "incomplete_details": None}
    events.lifecycle("created", started)
    events.lifecycle("in_progress", started)
    ids = [item.get("call_id", "") for item in body["output"]]
    tools = {_function_name(item): _called(item) for item in body["output"] if _is_call(item)}
    is_sealed = any(item.get("encrypted_content") for item in body["output"])
    writer = OutputWriter(body["id"], events, tools, lambda index, _: ids[index], is_sealed)
    for index, item in enumerate(body["output"]):
        _replay_item(writer, index, item)
    events.lifecycle(body["status"], body)
    return written


def _replay_item(writer: OutputWriter, index: int, item: Item) -> None:
    match item["type"]:
        case "message":
            part: dict[str, Any] = item["content"][0]
            writer.add(MessagePart(content=part["text"]), part["logprobs"] or ())
        case "reasoning":
            writer.add(MessagePart(reasoning=item["content"][0]["text"]))
        case "mcp_list_tools":
            writer.list_tools(item["server_label"], item["tools"])
            return
        case _:
            call = ToolCallPart(0, item.get("call_id"), _function_name(item), _arguments(item))
            writer.add(MessagePart(tool_calls=(call,)))
    writer.end_turn(item["status"] == "incomplete")
    if item["type"] == "mcp_call" and item["status"] in ("completed", "failed"):
        error = item["error"]
        writer.end_server_call(index, item["output"], error and error["content"])


def _is_call(item: Item) -> bool:
    return item["type"] in CALL_ITEMS


def _called(item: Item) -> ItemTool:
    name, namespace, label = (item.get(field) for field in ("name", "namespace", "server_label"))
    return ItemTool(item["type"], name or TOOL_SEARCH, namespace, label)


def _function_name(item: Item) -> str:
    called = _called(item)
    return flat_name(called.namespace, called.name)


def _arguments(item: Item) -> str:
    """Return the arguments of a call as the model may have written them."""
    match item["type"]:
        case "custom_tool_call":
            return encode_input(item["input"])
        case "tool_search_call":
            return json.dumps(item["arguments"], ensure_ascii=False)
    return str(item["arguments"])
