"""Parse the input items that hold calls of tools and their outputs.

Tools that only a client or another server can run have items of their own types. Their fields are
kept as they are; `item_calls` tells how a model reads them.
"""

import json
from collections.abc import Callable

from headrace.frontend.responses.request.item_fields import (
    read_name,
    read_object,
    read_optional_name,
    read_output,
    read_part,
    read_text,
)
from headrace.frontend.schemas.limits import limit_of
from headrace.frontend.schemas.responses import Item

Parser = Callable[[Item, str], Item | None]


def _function_call(item: Item, where: str) -> Item:
    arguments = item.get("arguments")
    if arguments is None:
        arguments = "{}"  # the function has no parameters
    elif isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "call_id": _call_id(item, where),
        "name": read_name(item, "name", where),
        **_namespace(item, where),
        "arguments": read_text({"arguments": arguments}, "arguments", where),
        "status": "completed",
    }


def _custom_tool_call(item: Item, where: str) -> Item:
    return {
        "call_id": _call_id(item, where),
        "name": read_name(item, "name", where),
        **_namespace(item, where),
        "input": read_text(item, "input", where),
        "status": "completed",
    }


def _namespace(item: Item, where: str) -> Item:
    namespace = read_optional_name(item, "namespace", where)
    return {} if namespace is None else {"namespace": namespace}


def _call_output(item: Item, where: str) -> Item:
    return {
        "call_id": _call_id(item, where),
        "output": read_output(item, where),
        "status": "completed",
    }


def _action_call(field: str) -> Parser:
    """Return the parser of calls whose arguments are an object in this field."""

    def parse(item: Item, where: str) -> Item:
        action = item.get("actions") if item.get(field) is None else item[field]
        if not isinstance(action, list):
            action = read_object({field: action}, field, where)
        return {"call_id": _call_id(item, where), field: action, "status": "completed"}

    return parse


def _tool_search_call(item: Item, where: str) -> Item:
    return {
        "call_id": _call_id(item, where),
        "execution": "client" if item.get("execution") == "client" else "server",
        "arguments": item.get("arguments"),
        "status": "completed",
    }


def _tool_search_output(item: Item, where: str) -> Item:
    tools = item.get("tools")
    return {
        "call_id": _call_id(item, where),
        "execution": "client" if item.get("execution") == "client" else "server",
        "tools": tools if isinstance(tools, list) else [],
        "status": "completed",
    }


def _shell_call_output(item: Item, where: str) -> Item:
    output = item.get("output")
    if not isinstance(output, list) or not all(isinstance(each, dict) for each in output):
        return _call_output(item, where)
    return {"call_id": _call_id(item, where), "output": output, "status": "completed"}


def _apply_patch_call_output(item: Item, where: str) -> Item:
    status = "failed" if item.get("status") == "failed" else "completed"
    return {**_call_output(item, where), "status": status}


def _computer_call_output(item: Item, where: str) -> Item:
    """Refuse the output by its type if it is an image, as it usually is."""
    output = item.get("output")
    if isinstance(output, dict):
        output = [read_part(output, "input_text", f"{where}.output")]
    return _call_output({**item, "output": output}, where)


def _results(*fields: str) -> Parser:
    """Return the parser of calls that another server has run, for what these fields say.

    The item is left out if the last of them, the results, says nothing.
    """

    def parse(item: Item, where: str) -> Item | None:
        results = item.get(fields[-1])
        if (
            not isinstance(results, list)
            or not results
            or len(results) > limit_of("max_content_parts")
        ):
            return None
        return {**{field: item.get(field) for field in fields}, "status": "completed"}

    return parse


def _left_out(_item: Item, _where: str) -> None:
    return None


def _call_id(item: Item, where: str) -> str:
    """Return the id of a call; items of some types have it as their own id only."""
    field = "id" if item.get("call_id") is None and item.get("id") is not None else "call_id"
    return read_name(item, field, where)


TOOL_PARSERS: dict[str, Parser] = {
    "function_call": _function_call,
    "function_call_output": _call_output,
    "custom_tool_call": _custom_tool_call,
    "custom_tool_call_output": _call_output,
    "tool_search_call": _tool_search_call,
    "tool_search_output": _tool_search_output,
    "local_shell_call": _action_call("action"),
    "local_shell_call_output": _call_output,
    "shell_call": _action_call("action"),
    "shell_call_output": _shell_call_output,
    "apply_patch_call": _action_call("operation"),
    "apply_patch_call_output": _apply_patch_call_output,
    "computer_call": _action_call("action"),
    "computer_call_output": _computer_call_output,
    "web_search_call": _results("action", "results"),
    "file_search_call": _results("queries", "results"),
    "code_interpreter_call": _results("code", "outputs"),
    "image_generation_call": _left_out,
}
