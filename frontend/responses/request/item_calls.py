"""Tell how a model reads the items of tools: as calls of functions, and their results as text."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from headrace.frontend.responses.request.client_tools import TOOL_SEARCH, flat_name
from headrace.frontend.responses.request.custom_input import encode_input
from headrace.frontend.schemas.responses import Item


class HistoryCall(NamedTuple):
    """A call of a function. output: its result, where the same item has it."""

    call_id: str
    name: str
    arguments: str
    output: str | None = None


class HistoryResult(NamedTuple):
    """The result of a call."""

    call_id: str
    output: str


def read_call(item: Item) -> HistoryCall | HistoryResult | None:
    """Return what an item of a tool is to a model; None for an item of another kind."""
    read = _READERS.get(item["type"])
    return None if read is None else read(item)


def _function(item: Item) -> HistoryCall:
    name = flat_name(item.get("namespace"), item["name"])
    return HistoryCall(item["call_id"], name, item["arguments"])


def _custom(item: Item) -> HistoryCall:
    name = flat_name(item.get("namespace"), item["name"])
    return HistoryCall(item["call_id"], name, encode_input(item["input"]))


def _mcp(item: Item) -> HistoryCall:
    return HistoryCall(item["id"], item["name"], item["arguments"], mcp_result(item))


def mcp_result(item: Item) -> str:
    """Return the result of a call as the model sees it."""
    if item.get("output") is not None:
        return str(item["output"])
    error = item.get("error")
    message = error.get("content") if isinstance(error, dict) else error
    return f"Error: {message or 'the call has failed'}"


def _tool_search(item: Item) -> HistoryCall:
    arguments = item["arguments"]
    text = arguments if isinstance(arguments, str) else _json(arguments or {})
    return HistoryCall(item["call_id"], TOOL_SEARCH, text)


def _action(name: str, field: str) -> Callable[[Item], HistoryCall]:
    def read(item: Item) -> HistoryCall:
        action = item[field]
        arguments = action if isinstance(action, dict) else {"actions": action}
        return HistoryCall(item["call_id"], name, _json(arguments))

    return read


def _hosted(name: str, field: str, results: str) -> Callable[[Item], HistoryCall]:
    def read(item: Item) -> HistoryCall:
        output = "\n\n".join(_result_text(each) for each in item[results])
        return HistoryCall(item["id"], name, _json({field: item[field]}), output)

    return read


def _result_text(result: Any) -> str:
    """Return what a result of another server says."""
    if not isinstance(result, dict):
        return str(result)
    fields = ("filename", "title", "url", "text", "snippet", "logs")
    texts = [result[field] for field in fields if isinstance(result.get(field), str)]
    return "\n".join(texts)


def _output(item: Item) -> HistoryResult:
    return HistoryResult(item["call_id"], item["output"])


def _shell_output(item: Item) -> HistoryResult:
    output = item["output"]
    if isinstance(output, list):
        output = "\n".join(_command_output(each) for each in output)
    return HistoryResult(item["call_id"], output)


def _command_output(each: Item) -> str:
    texts = [each[field] for field in ("stdout", "stderr") if isinstance(each.get(field), str)]
    outcome = each.get("outcome")
    if isinstance(outcome, dict) and outcome.get("type") == "timeout":
        texts.append("(timed out)")
    elif isinstance(outcome, dict) and isinstance(outcome.get("exit_code"), int):
        texts.append(f"(exit code {outcome['exit_code']})")
    return "\n".join(text for text in texts if text)


def _patch_output(item: Item) -> HistoryResult:
    return HistoryResult(item["call_id"], item["output"] or item["status"])


def _found_tools(item: Item) -> HistoryResult:
    names = [name for tool in item["tools"] for name in _tool_names(tool)]
    return HistoryResult(item["call_id"], "Tools: " + (", ".join(names) or "none"))


def _tool_names(tool: Any) -> list[str]:
    name = tool.get("name") if isinstance(tool, dict) else None
    if not isinstance(name, str):
        return []
    inner = tool.get("tools")
    if not isinstance(inner, list):
        return [name]
    return [flat_name(name, each) for each_tool in inner for each in _tool_names(each_tool)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_READERS: dict[str, Callable[[Item], HistoryCall | HistoryResult]] = {
    "function_call": _function,
    "function_call_output": _output,
    "custom_tool_call": _custom,
    "custom_tool_call_output": _output,
    "mcp_call": _mcp,
    "tool_search_call": _tool_search,
    "tool_search_output": _found_tools,
    "local_shell_call": _action("local_shell", "action"),
    "local_shell_call_output": _output,
    "shell_call": _action("shell", "action"),
    "shell_call_output": _shell_output,
    "apply_patch_call": _action("apply_patch", "operation"),
    "apply_patch_call_output": _patch_output,
    "computer_call": _action("computer", "action"),
    "computer_call_output": _output,
    "web_search_call": _hosted("web_search", "action", "results"),
    "file_search_call": _hosted("file_search", "queries", "results"),
    "code_interpreter_call": _hosted("code_interpreter", "code", "outputs"),
}
