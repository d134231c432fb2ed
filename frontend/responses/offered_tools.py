"""Put the tools of a response together: the client's and those of tool servers."""

from collections import Counter
from typing import Any

from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.responses.output.call_items import ItemTool
from headrace.frontend.responses.request.requested_tools import RequestedTools
from headrace.frontend.responses.request.tool_choice import ChatTool, OfferedTools
from headrace.frontend.responses.server_tools import ServerTools


def offered_tools(requested: RequestedTools, listed: ServerTools) -> OfferedTools:
    """Return the tools that the model is offered. Raises BadRequest if two have one name.

    listed: those of tool servers.
    """
    tools = [
        _chat_tool(tool.function_name, tool.description, tool.parameters, tool.strict)
        for tool in requested.client
    ]
    for specs in listed.listed.values():
        tools += [_chat_tool(spec.name, spec.description, spec.schema, None) for spec in specs]
    for name, count in Counter(tool["function"]["name"] for tool in tools).items():
        if count > 1:
            raise BadRequest(f"tools: there are two tools named {shortened(name)!r}.", "tools")
    client = {tool.function_name: tool for tool in requested.client}
    return OfferedTools(tools, client, listed.labels)


def _chat_tool(
    name: str, description: str | None, parameters: Any, strict: bool | None
) -> ChatTool:
    optional = {"description": description, "parameters": parameters, "strict": strict}
    given = {field: value for field, value in optional.items() if value is not None}
    return {"type": "function", "function": {"name": name, **given}}


def called_tools(requested: RequestedTools, listed: ServerTools) -> dict[str, ItemTool]:
    """Return the tools by the names by which the model may call them.

    Small models leave the namespace out: a name that only one tool has is enough.
    """
    counts = Counter(tool.name for tool in requested.client)
    called: dict[str, ItemTool] = {}
    for tool in requested.client:
        item = ItemTool(tool.call_kind, tool.name, tool.namespace)
        if counts[tool.name] == 1:
            called[tool.name] = item
    for tool in requested.client:
        called[tool.function_name] = ItemTool(tool.call_kind, tool.name, tool.namespace)
    of_servers = {
        name: ItemTool("mcp_call", name, server_label=label)
        for name, label in listed.labels.items()
    }
    return called | of_servers
