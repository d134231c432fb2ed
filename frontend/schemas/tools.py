"""Tools that a model may call, and the choice among them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from headrace.frontend.schemas.fields import (
    MAX_NAME_CHARS,
    Name,
    RequestModel,
    bad_value,
    is_one_line,
    wrong_type,
)
from headrace.frontend.schemas.limits import at_most_of, check_tool_size


def _check_function_type(tool: Any) -> Any:
    type_ = tool.get("type", "function") if isinstance(tool, dict) else "function"
    if type_ != "function":
        raise bad_value(f"must be of type 'function', this server has no {str(type_)[:40]!r}")
    return tool


def _printable(name: str) -> str:
    if not is_one_line(name):
        raise bad_value("must not be blank or hold control characters")
    return name


# Templates and parsers take names of any letters, with spaces, but on one line.
FunctionNameText = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(_printable)
]


class FunctionDefinition(RequestModel):
    """A function that the model may call.

    parameters: a JSON schema of the arguments; None if there are none.
    strict: whether calls must conform to it.
    returned, response: schemas of the result, as some chat templates show it to the model.
    """

    name: FunctionNameText
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    returned: Annotated[Any, Field(alias="return")] = None
    response: Any = None


class Tool(RequestModel):
    type: Literal["function"] = "function"
    function: FunctionDefinition


class FunctionName(RequestModel):
    name: Name


class NamedTool(RequestModel):
    type: Literal["function"] = "function"
    function: FunctionName


FunctionTool = Annotated[Tool, BeforeValidator(_check_function_type)]
Tools = Annotated[
    list[Annotated[FunctionTool, BeforeValidator(check_tool_size)]], at_most_of("max_tools")
]
NamedTools = Annotated[
    list[Annotated[NamedTool, BeforeValidator(_check_function_type)]],
    Field(min_length=1),
    at_most_of("max_tools"),
]


class AllowedTools(RequestModel):
    mode: Literal["auto", "required"]
    tools: NamedTools


class AllowedToolChoice(RequestModel):
    """Restrict the choice to some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _tool_choice(value: Any) -> Any:
    """Validate a tool choice by its type, so that errors are about the form that was meant."""
    if value is None or value in ("none", "auto", "required"):
        return value
    if isinstance(value, str):
        raise bad_value("must be 'none', 'auto', 'required' or an object that names a function")
    if not isinstance(value, dict):
        raise wrong_type("must be a string or an object")
    type_ = value.get("type", "function")
    if type_ == "function":
        return NamedTool.model_validate(value)
    if type_ == "allowed_tools":
        return AllowedToolChoice.model_validate(value)
    raise bad_value(f"must be of type 'function' or 'allowed_tools', not {str(type_)[:40]!r}")


ToolChoiceMode = Literal["none", "auto", "required"]
ToolChoice = Annotated[
    ToolChoiceMode | NamedTool | AllowedToolChoice | None,
    BeforeValidator(
        _tool_choice, json_schema_input_type=ToolChoiceMode | NamedTool | AllowedToolChoice | None
    ),
]
