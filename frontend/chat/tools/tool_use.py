"""What a request says of tools, and all that follows from that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headrace.frontend.chat.message import MessageReader, PlainReader
from headrace.frontend.chat.tools.forced import ForcedCallsParser
from headrace.frontend.chat.tools.parser import ToolParser
from headrace.frontend.chat.tools.reader import ForcedArgumentsReader, ToolCallReader
from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.tools import AllowedToolChoice, NamedTool, Tool

ToolMode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """mode: whether the model may, must or must not call; "named": one certain function.

    tools: that may be called; in mode "named" that one.
    shown: as the chat template gets them; None if it gets none.
    parser: of the model; None if calls are not told from text.
    is_parallel: whether there may be several calls.
    """

    mode: ToolMode
    tools: Sequence[Tool] = ()
    shown: Sequence[dict[str, Any]] | None = None
    parser: ToolParser | None = None
    is_parallel: bool = True

    def reader(self) -> MessageReader:
        """For one choice."""
        own = self.parser or ToolParser()
        if self.mode == "required":
            return ToolCallReader(ForcedCallsParser(), not self.is_parallel, own.new_id)
        if self.mode == "named":
            return ForcedArgumentsReader(self.tools[0].function.name, own.new_id())
        if self.mode == "auto":
            return ToolCallReader(own, not self.is_parallel)
        return PlainReader()

    @property
    def marks(self) -> Sequence[str]:
        """What the reader has to see even where special tokens are not shown."""
        return self.parser.marks if self.mode == "auto" and self.parser is not None else ()


NO_TOOLS = ToolUse("none")


def tool_use(
    request: ChatCompletionRequest, parser: ToolParser | None, *, hides_unused: bool = False
) -> ToolUse:
    """What the request's tools come to. BadRequest if they do not fit.

    parser: of the model; None if it has none. hides_unused: the chat template is not told of tools
    that must not be called.
    """
    tools = request.tools or []
    mode, allowed = _mode(request), _allowed(request, tools)
    shown = None if mode == "none" and hides_unused else [_plain(tool) for tool in allowed]
    if mode == "auto" and parser is None:
        raise BadRequest(
            'tool_choice "auto", which is the default where there are tools, needs a server that'
            " was started with --enable-auto-tool-choice and --tool-call-parser.",
            "tool_choice",
        )
    return ToolUse(mode, _callable(request, allowed), shown or None, parser, _is_parallel(request))


def tools_for_template(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """Tools as chat templates get them: as the client has written them."""
    return [_plain(tool) for tool in tools] if tools else None


def _plain(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": tool.function.model_dump(exclude_unset=True)}


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


def _allowed(request: ChatCompletionRequest, tools: Sequence[Tool]) -> Sequence[Tool]:
    """The tools that the choice leaves."""
    choice = request.tool_choice
    if not isinstance(choice, AllowedToolChoice):
        return tools
    names = {tool.function.name for tool in choice.allowed_tools.tools}
    for name in names - {tool.function.name for tool in tools}:
        raise _unknown(name)
    return [tool for tool in tools if tool.function.name in names]


def _callable(request: ChatCompletionRequest, allowed: Sequence[Tool]) -> Sequence[Tool]:
    choice = request.tool_choice
    if not isinstance(choice, NamedTool):
        return allowed
    named = [tool for tool in allowed if tool.function.name == choice.function.name]
    if not named:
        raise _unknown(choice.function.name)
    return named


def _unknown(name: str) -> BadRequest:
    return BadRequest(f"tool_choice: there is no tool {name[:100]!r} among tools.", "tool_choice")
