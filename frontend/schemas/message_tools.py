"""The tools of Messages requests, and the choice among them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field

from headrace.frontend.schemas.fields import Ignored, RequestModel, wrong_type
from headrace.frontend.schemas.limits import at_most_of, check_tool_size

Id = Annotated[str, Field(min_length=1, max_length=256)]


class AnthropicTool(RequestModel):
    """A function that the client runs."""

    type: Ignored = None
    name: Id
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: Ignored = None
    allowed_callers: Ignored = None
    defer_loading: Ignored = None
    eager_input_streaming: Ignored = None
    input_examples: Ignored = None


class TypedTool(RequestModel):
    """A tool that Anthropic's models know by its type, such as "web_search_20250305".

    This model does not know it, and what the server would have to run is not here.
    """

    type: Annotated[str, Field(max_length=64)]
    name: Ignored = None


def _tool(value: Any) -> AnthropicTool | TypedTool:
    if not isinstance(value, dict):
        raise wrong_type("must be an object")
    check_tool_size(value)
    kind = value.get("type")
    if isinstance(kind, str) and kind != "custom" and value.get("input_schema") is None:
        return TypedTool.model_validate({"type": kind, "name": value.get("name")})
    return AnthropicTool.model_validate(value)


class AnthropicToolChoice(RequestModel):
    """The choice of tools that the model may or must call.

    name: the name of the tool, if the type is "tool".
    """

    type: Literal["auto", "any", "tool", "none"]
    name: Id | None = None
    disable_parallel_tool_use: bool | None = False


def _none_as_empty(value: Any) -> Any:
    return [] if value is None else value


AnthropicTools = Annotated[
    list[
        Annotated[
            AnthropicTool | TypedTool,
            BeforeValidator(_tool, json_schema_input_type=AnthropicTool | TypedTool),
        ]
    ],
    FailFast(),
    at_most_of("max_tools"),
    BeforeValidator(_none_as_empty, json_schema_input_type=list[AnthropicTool | TypedTool] | None),
]


class ToolChange(RequestModel):
    """A tool that is offered, or not offered any more, in the middle of a conversation.

    name: of a tool of the request, for type "tool_reference". definition: of another one.
    """

    type: Literal["tool_reference", "tool_definition"]
    name: Id | None = None
    definition: AnthropicTool | None = None
