"""The stream of a response that was not streamed when it was made: from what it is now."""

from typing import Any

from headrace.frontend.chat.message import MessagePart, ToolCallPart
from headrace.frontend.responses.output.event_writer import EventWriter
from headrace.frontend.responses.output.output_writer import OutputWriter
from headrace.frontend.responses.output.response_body import IN_PROGRESS, ResponseBody, with_status
from headrace.frontend.schemas.responses import Item


def replay_events(body: ResponseBody) -> list[str]:
    """The events of a finished response, each of its texts in one piece."""
    told: list[str] = []
    events = EventWriter(told.append)
    begun = {**with_status(body, IN_PROGRESS), "usage": None, "incomplete_details": None}
    events.lifecycle("created", begun)
    events.lifecycle("in_progress", begun)
    ids = [item.get("call_id", "") for item in body["output"]]
    labels = {
        item["name"]: item["server_label"] for item in body["output"] if item["type"] == "mcp_call"
    }
    writer = OutputWriter(body["id"], events, labels, lambda index, _: ids[index])
    for index, item in enumerate(body["output"]):
        _retell(writer, index, item)
    events.lifecycle(body["status"], body)
    return told


def _retell(writer: OutputWriter, index: int, item: Item) -> None:
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
            call = ToolCallPart(0, item.get("call_id"), item["name"], item["arguments"])
            writer.add(MessagePart(tool_calls=(call,)))
    writer.end_turn(item["status"] == "incomplete")
    if item["type"] == "mcp_call" and item["status"] in ("completed", "failed"):
        error = item["error"]
        writer.end_server_call(index, item["output"], error and error["content"])
