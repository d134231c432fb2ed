"""Translate the tools of a Messages request to those of a chat."""

from collections.abc import Iterator
from typing import Any

from headrace.frontend.errors import BadRequest
from headrace.frontend.http.parsing import ignore_fields
from headrace.frontend.schemas.message_blocks import ToolChangeBlock
from headrace.frontend.schemas.message_tools import AnthropicTool, TypedTool
from headrace.frontend.schemas.messages import CountTokensRequest

_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_tools(request: CountTokensRequest) -> dict[str, Any]:
    """Return the fields of a chat for the tools and the choice among them.

    Raises BadRequest if the choice cannot be honoured.
    """
    tools, choice = _offered(request), request.tool_choice
    if not tools:
        if choice is not None and choice.type in ("any", "tool"):
            raise BadRequest("tool_choice: there is no tool that could be called.", "tool_choice")
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in tools], "tool_choice": "auto"}
    if choice is None:
        return fields
    if choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    if choice.type == "tool":
        if choice.name not in [tool.name for tool in tools]:
            raise BadRequest("tool_choice.name: must be the name of one of the tools.")
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        fields["tool_choice"] = _TOOL_CHOICES[choice.type]
    return fields


def positions_of(request: CountTokensRequest) -> list[int]:
    """Return where the chat's tools are among those of the request."""
    tools = enumerate(request.tools)
    return [position for position, tool in tools if isinstance(tool, AnthropicTool)]


def _offered(request: CountTokensRequest) -> list[AnthropicTool]:
    """Return the tools that the model is offered at the end of the conversation.

    Those that are known by type alone are left out, as nothing here knows them.
    """
    typed = [tool for tool in request.tools if isinstance(tool, TypedTool)]
    ignore_fields([f"tools.{tool.type}" for tool in typed])
    offered = {tool.name: tool for tool in request.tools if isinstance(tool, AnthropicTool)}
    known, left_out = dict(offered), {tool.name for tool in typed if isinstance(tool.name, str)}
    for block in _changes(request):
        change, name = block.tool, block.tool.name
        if change.definition is not None:
            name = change.definition.name
            known[name] = change.definition
        if name is None or name not in known:
            if name in left_out:
                continue
            raise BadRequest(f"messages: {block.type} must name one of the tools.", "messages")
        if block.type == "tool_addition":
            offered[name] = known[name]
        else:
            offered.pop(name, None)
    return list(offered.values())


def _changes(request: CountTokensRequest) -> Iterator[ToolChangeBlock]:
    for message in request.messages:
        if message.role == "system":
            yield from (each for each in message.content if isinstance(each, ToolChangeBlock))


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "parameters": {"type": "object", **tool.input_schema},
    }
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
