"""The request of POST /v1/chat/completions."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, FailFast, Field

from headrace.frontend.schemas.fields import (
    Ignored,
    Int,
    RequestModel,
    at_most,
    bad_value,
    unsupported,
    wrong_type,
)
from headrace.frontend.schemas.generation import GenerationRequest, LogprobCount
from headrace.frontend.schemas.limits import (
    at_most_of,
    characters_of,
    check_template_arguments,
    exceeded,
    limit_of,
)
from headrace.frontend.schemas.tools import ToolChoice, Tools
from headrace.frontend.schemas.unknown_fields import note_unknown_fields

MAX_TOOL_CALLS = 128


# The key of the text in a content part, by the part's type. Besides OpenAI's: parts of outputs that
# clients send back, and those of the Responses API.
_TEXT_KEYS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "reasoning_text": "text",
    "summary_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}


class TextPart(RequestModel):
    """A content part with text. Those of the types "refusal" and "thinking" hold it in a field of
    their type's name."""

    type: Literal[
        "text",
        "input_text",
        "output_text",
        "reasoning_text",
        "summary_text",
        "refusal",
        "thinking",
    ] = "text"
    text: str | None = None
    refusal: str | None = None
    thinking: str | None = None


def _part_texts(content: Any) -> Any:
    """Return the texts of a list of text parts."""
    if not isinstance(content, list):
        return content
    if len(content) > limit_of("max_content_parts"):
        raise exceeded("max_content_parts", "must hold at most {} parts")
    return [_part_text(part) for part in content]


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise wrong_type("a content part must be an object")
    part_type = part.get("type", "text")
    key = _TEXT_KEYS.get(part_type) if isinstance(part_type, str) else None
    if key is None:
        shown = repr(part_type)[:40]
        raise bad_value(f"content parts must be of type 'text', this model takes no {shown}")
    if len(part) > 2:
        note_unknown_fields(part_type, part, ("type", key))
    text = part.get(key)
    if not isinstance(text, str):
        raise wrong_type(f"a content part of type {part_type!r} must hold a string {key!r}")
    return text


Content = Annotated[
    str | list[str] | None,
    BeforeValidator(_part_texts, json_schema_input_type=str | list[TextPart] | None),
]


class FunctionCall(RequestModel):
    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(RequestModel):
    """A call that the model made earlier in the chat."""

    id: str | None = None
    type: Literal["function"] = "function"
    index: Int | None = None
    function: FunctionCall


class ChatMessage(RequestModel):
    """A message as a client writes it, or as this server has answered it."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    raw_content: Annotated[Content, Field(alias="content")] = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: (
        Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS), at_most(MAX_TOOL_CALLS)] | None
    ) = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: Ignored = None
    audio: Annotated[Any, unsupported(None)] = None
    function_call: Annotated[Any, unsupported(None)] = None

    @property
    def content(self) -> str | None:
        """Return the content as one text, with its parts on separate lines."""
        return (
            "\n".join(self.raw_content) if isinstance(self.raw_content, list) else self.raw_content
        )


def _limit_tool_calls(messages: Any) -> Any:
    """Limit the tool calls of all messages together.

    They take the longest to validate, and each message may hold some.
    """
    if isinstance(messages, list):
        calls = [item.get("tool_calls") for item in messages if isinstance(item, dict)]
        if sum(len(message_calls) for message_calls in calls if isinstance(message_calls, list)) > (
            limit_of("max_tool_calls")
        ):
            raise exceeded("max_tool_calls", "must hold at most {} tool calls")
    return messages


# Validation stops at the first invalid message: only one error is reported.
Messages = Annotated[
    list[ChatMessage],
    FailFast(),
    BeforeValidator(_limit_tool_calls),
    at_most_of("max_messages"),
]


# Further words of clients and gateways for efforts.
_EFFORT_ALIASES = {"default": None, "auto": None, "disable": "none", "disabled": "none"}


def _effort(value: Any) -> Any:
    return _EFFORT_ALIASES.get(value, value) if isinstance(value, str) else value


ReasoningEffort = Annotated[
    Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None,
    BeforeValidator(_effort),
]

# A Jinja2 template of the client, if the operator trusts requests with one.
ChatTemplateText = Annotated[str, Field(min_length=1), characters_of("max_chat_template_chars")]
TemplateArguments = Annotated[dict[str, Any], BeforeValidator(check_template_arguments)]
Documents = Annotated[list[dict[str, str]], at_most_of("max_documents")]


class ChatCompletionRequest(GenerationRequest):
    """A request for a chat completion.

    max_completion_tokens: takes precedence over max_tokens; without either, the rest of the
    context.
    tool_choice: "auto" if it is missing and there are tools.
    """

    logprobs_field: ClassVar[str] = "top_logprobs"

    messages: Messages
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: LogprobCount | None = 0
    echo: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: ChatTemplateText | None = None
    chat_template_kwargs: TemplateArguments | None = None
    documents: Documents | None = None
    return_prompt_text: bool | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice = "none"
    parallel_tool_calls: bool | None = True
    reasoning_effort: ReasoningEffort = None
    include_reasoning: bool | None = True

    audio: Annotated[Any, unsupported(None)] = None
    function_call: Annotated[Any, unsupported(None, "none", "auto")] = None
    functions: Annotated[Any, unsupported(None, [])] = None
    media_io_kwargs: Annotated[Any, unsupported(None, {})] = None
    mm_processor_kwargs: Annotated[Any, unsupported(None, {})] = None
    modalities: Annotated[Any, unsupported(None, ["text"])] = None
    web_search_options: Annotated[Any, unsupported(None)] = None

    prediction: Ignored = None
    verbosity: Ignored = None

    @property
    def output_limit(self) -> tuple[int | None, str]:
        """Return the limit on output tokens, and the field that sets it."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"
