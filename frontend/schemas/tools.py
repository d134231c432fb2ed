"""Tools that a model may call, and which of them it is to call."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from headrace.frontend.schemas.fields import Name, RequestModel, at_most, bad_value, wrong_type

MAX_TOOLS = 512
NAME_PATTERN = r"^[a-zA-Z0-9_.:/-]{1,128}$"


def _only_functions(tool: Any) -> Any:
    kind = tool.get("type", "function") if isinstance(tool, dict) else "function"
    if kind != "function":
        raise bad_value(f"must be of type 'function', this server has no {str(kind)[:40]!r}")
    return tool


class FunctionDefinition(BaseModel):
    """parameters: a JSON schema of the arguments; None: there are none. strict: whether calls are
    held to it. Templates may know further fields."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    type: Literal["function"] = "function"
    function: FunctionDefinition


class FunctionName(RequestModel):
    name: Name


class NamedTool(RequestModel):
    type: Literal["function"] = "function"
    function: FunctionName


FunctionTool = Annotated[Tool, BeforeValidator(_only_functions)]
Tools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS), at_most(MAX_TOOLS)]
NamedTools = Annotated[
    list[Annotated[NamedTool, BeforeValidator(_only_functions)]],
    Field(min_length=1, max_length=MAX_TOOLS),
    at_most(MAX_TOOLS),
]


class AllowedTools(RequestModel):
    mode: Literal["auto", "required"]
    tools: NamedTools


class AllowedToolChoice(RequestModel):
    """Only some of the tools may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _choice(value: Any) -> Any:
    """Which of the forms a choice has is told by its type; errors are then about that form."""
    if value is None or value in ("none", "auto", "required"):
        return value
    if isinstance(value, str):
        raise bad_value("must be 'none', 'auto', 'required' or an object that names a function")
    if not isinstance(value, dict):
        raise wrong_type("must be a string or an object")
    kind = value.get("type", "function")
    if kind == "function":
        return NamedTool.model_validate(value)
    if kind == "allowed_tools":
        return AllowedToolChoice.model_validate(value)
    raise bad_value(f"must be of type 'function' or 'allowed_tools', not {str(kind)[:40]!r}")


Mode = Literal["none", "auto", "required"]
ToolChoice = Annotated[
    Mode | NamedTool | AllowedToolChoice | None,
    BeforeValidator(_choice, json_schema_input_type=Mode | NamedTool | AllowedToolChoice | None),
]
