"""Resolve a request's tools and tool choice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from headrace.frontend.chat.message import MessageReader, PlainReader
from headrace.frontend.chat.tools.forced import ForcedCallsParser
from headrace.frontend.chat.tools.parser import ToolParser
from headrace.frontend.chat.tools.reader import ForcedArgumentsReader, ToolCallReader
from headrace.frontend.chat.tools.tool_schemas import ToolSchemas
from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.tools import AllowedToolChoice, NamedTool, Tool

ToolMode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The use of tools in a request.

    mode: whether the model must not, may or must call a tool; "named": it must call one given
        function.
    callable_tools: tools that may be called; in mode "named" only the named one.
    template_tools: tools as the chat template gets them; None if it gets none.
    parser: the model's parser; None if calls are not recognized in its output.
    is_parallel: whether an answer may hold several calls.
    holds_names: whether calls must name one of the tools, even if no tool is strict.
    """

    mode: ToolMode
    callable_tools: Sequence[Tool] = ()
    template_tools: Sequence[dict[str, Any]] | None = None
    parser: ToolParser | None = None
    is_parallel: bool = True
    holds_names: bool = False

    def reader(self) -> MessageReader:
        """Return a reader for one choice."""
        parser = self.parser or ToolParser()
        if self.mode == "required":
            return ToolCallReader(ForcedCallsParser(), not self.is_parallel, parser.new_id)
        if self.mode == "named":
            return ForcedArgumentsReader(self.callable_tools[0].function.name, parser.new_id())
        if self.mode == "auto":
            functions = [tool.function for tool in self.callable_tools]
            schemas = ToolSchemas({function.name: function.parameters for function in functions})
            return ToolCallReader(parser, not self.is_parallel, tools=schemas)
        return PlainReader()

    @property
    def delimiters(self) -> Sequence[str]:
        """Return the texts that the reader must see even where special tokens are hidden."""
        return self.parser.delimiters if self.mode == "auto" and self.parser is not None else ()


NO_TOOLS = ToolUse("none")


def at_strict_level(tools: ToolUse, level: str) -> ToolUse:
    """Return tools whose calls are held to them at least as the operator wants.

    level: "auto": strict tools only; "function": to their names; "parameter": to their schemas.
    """
    if level == "auto":
        return tools
    callable_tools = tools.callable_tools
    if level == "parameter":
        callable_tools = [_strict(tool) for tool in callable_tools]
    return replace(tools, callable_tools=callable_tools, holds_names=True)


def _strict(tool: Tool) -> Tool:
    return tool.model_copy(update={"function": tool.function.model_copy(update={"strict": True})})


def resolve_tools(
    request: ChatCompletionRequest, parser: ToolParser | None, *, hides_unused: bool = False
) -> ToolUse:
    """Return how the request uses tools. Raises BadRequest if its fields exclude each other.

    parser: the model's parser; None if it has none.
    hides_unused: whether the chat template gets no tools that must not be called.
    """
    tools = request.tools or []
    mode, allowed = _mode(request), _allowed_tools(request, tools)
    hides_all = mode == "none" and hides_unused
    template_tools = None if hides_all else tools_for_template(allowed)
    if mode == "auto" and parser is None:
        raise BadRequest(
            'tool_choice "auto", which is the default where there are tools, needs a model whose'
            " chat template tells how it writes calls, or a server that was started with"
            " --tool-call-parser.",
            "tool_choice",
        )
    callable_tools = _callable_tools(request, allowed)
    return ToolUse(mode, callable_tools, template_tools, parser, _is_parallel(request))


def tools_for_template(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """Return tools as chat templates get them: as the client has written them."""
    return [_template_tool(tool) for tool in tools] if tools else None


def _template_tool(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": tool.function.model_dump(by_alias=True, exclude_unset=True),
    }


def _is_parallel(request: ChatCompletionRequest) -> bool:
    return request.parallel_tool_calls is not False


def _mode(request: ChatCompletionRequest) -> ToolMode:
    choice = request.tool_choice
    if "tool_choice" not in request.model_fields_set and request.tools:
        return "auto"
    if choice is None or choice == "none":
        return "none"
    if request.tools is None:
        raise BadRequest("tool_choice needs tools.", "tool_choice")
    if isinstance(choice, NamedTool):
        return "named"
    if not request.tools:
        return "none"
    return choice.allowed_tools.mode if isinstance(choice, AllowedToolChoice) else choice


def _allowed_tools(request: ChatCompletionRequest, tools: Sequence[Tool]) -> Sequence[Tool]:
    """Return the tools that the tool choice allows."""
    choice = request.tool_choice
    if not isinstance(choice, AllowedToolChoice):
        return tools
    names = {tool.function.name for tool in choice.allowed_tools.tools}
    for name in names - {tool.function.name for tool in tools}:
        raise _unknown_tool(name)
    return [tool for tool in tools if tool.function.name in names]


def _callable_tools(request: ChatCompletionRequest, allowed: Sequence[Tool]) -> Sequence[Tool]:
    choice = request.tool_choice
    if not isinstance(choice, NamedTool):
        return allowed
    matching = [tool for tool in allowed if tool.function.name == choice.function.name]
    if not matching:
        raise _unknown_tool(choice.function.name)
    return matching


def _unknown_tool(name: str) -> BadRequest:
    return BadRequest(f"tool_choice: there is no tool {name[:100]!r} among tools.", "tool_choice")
