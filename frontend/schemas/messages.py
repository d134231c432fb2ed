"""The requests of POST /v1/messages and /v1/messages/count_tokens."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field

from headrace.frontend.schemas.chat import MAX_MESSAGES
from headrace.frontend.schemas.fields import (
    MAX_STOP_CHARS,
    MAX_STOPS,
    Float,
    Ignored,
    Int,
    Name,
    RequestModel,
    at_most,
    bad_value,
    unsupported,
    wrong_type,
)
from headrace.frontend.schemas.generation import MAX_TEMPERATURE

MAX_BLOCKS = 10_000
MAX_TOOLS = 1024

Id = Annotated[str, Field(min_length=1, max_length=256)]


class Block(RequestModel):
    """The common fields of content blocks. Prompts are cached without being asked to."""

    cache_control: Ignored = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: Ignored = None


class ThinkingBlock(Block):
    """Thinking of an earlier answer.

    signature: as it was in that answer; it is not checked.
    """

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Block):
    """Thinking that only another model's server can read."""

    type: Literal["redacted_thinking"]
    data: Ignored = None


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: Id
    name: Id
    input: dict[str, Any] = Field(default_factory=dict)
    caller: Ignored = None
    toolset_name: Ignored = None


def _of_types(*types: str) -> BeforeValidator:
    """Return a validator for the types of content blocks.

    Blocks of another type are valid in Anthropic's API, so they get another error than malformed
    ones.
    """

    def check(block: Any) -> Any:
        if not isinstance(block, dict):
            raise wrong_type("a content block must be an object")
        block_type = block.get("type")
        if not isinstance(block_type, str):
            raise wrong_type("a content block must have a type")
        if block_type not in types:
            known = ", ".join(types)
            raise bad_value(f"this model takes no {block_type[:40]!r} blocks here, only {known}")
        return block

    return BeforeValidator(check)


def _text_as_blocks(content: Any) -> Any:
    """Convert a plain text to one text block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _none_as_empty(value: Any) -> Any:
    return [] if value is None else value


# Text-only content: the system prompt, and the results of tools.
TextBlocks = Annotated[
    list[Annotated[TextBlock, _of_types("text")]],
    FailFast(),
    Field(max_length=MAX_BLOCKS),
    at_most(MAX_BLOCKS),
    BeforeValidator(_text_as_blocks),
    BeforeValidator(_none_as_empty, json_schema_input_type=str | list[TextBlock] | None),
]


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: Id
    content: TextBlocks = Field(default_factory=list)
    is_error: bool | None = None
    toolset_name: Ignored = None


ContentBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
    _of_types("text", "thinking", "redacted_thinking", "tool_use", "tool_result"),
]
ContentBlocks = Annotated[
    list[ContentBlock],
    FailFast(),
    Field(max_length=MAX_BLOCKS),
    at_most(MAX_BLOCKS),
    BeforeValidator(_text_as_blocks, json_schema_input_type=str | list[ContentBlock]),
]


class InputMessage(RequestModel):
    role: Literal["user", "assistant", "system"]
    content: ContentBlocks


class AnthropicTool(RequestModel):
    """A function that the client runs. Tools that run on Anthropic's servers are not supported."""

    type: Literal["custom"] | None = None
    name: Id
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: Ignored = None
    allowed_callers: Ignored = None
    defer_loading: Annotated[Any, unsupported(None, False)] = None
    eager_input_streaming: Ignored = None
    input_examples: Ignored = None


class AnthropicToolChoice(RequestModel):
    """The choice of tools that the model may or must call.

    name: the name of the tool, if the type is "tool".
    """

    type: Literal["auto", "any", "tool", "none"]
    name: Id | None = None
    disable_parallel_tool_use: bool | None = False


class Thinking(RequestModel):
    """Whether the model thinks.

    budget_tokens: required if the type is "enabled". "adaptive": the model decides.
    """

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[Int, Field(ge=1, lt=2**31)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(RequestModel):
    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(RequestModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(RequestModel):
    user_id: Annotated[str, Field(max_length=1024)] | None = None


# Validation stops at the first invalid message: only one error is reported.
InputMessages = Annotated[
    list[InputMessage],
    FailFast(),
    Field(min_length=1, max_length=MAX_MESSAGES),
    at_most(MAX_MESSAGES),
]
Tools = Annotated[list[AnthropicTool], FailFast(), Field(max_length=MAX_TOOLS), at_most(MAX_TOOLS)]
StopSequences = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]],
    Field(max_length=MAX_STOPS),
    at_most(MAX_STOPS),
]


class CountTokensRequest(RequestModel):
    """The fields that the prompt is made of."""

    model: Name
    messages: InputMessages
    system: TextBlocks = Field(default_factory=list)
    tools: Tools = Field(default_factory=list)
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    cache_control: Ignored = None
    context_management: Ignored = None
    speed: Ignored = None
    mcp_servers: Annotated[Any, unsupported(None, [])] = None


class MessagesRequest(CountTokensRequest):
    max_tokens: Annotated[Int, Field(ge=1)]
    stream: bool | None = False
    stop_sequences: StopSequences | None = None
    temperature: Annotated[Float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Int, Field(ge=-1, lt=2**31)] | None = None
    metadata: Metadata | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None

    container: Annotated[Any, unsupported(None)] = None
    diagnostics: Ignored = None
    inference_geo: Ignored = None
    service_tier: Ignored = None
    user_profile_id: Ignored = None
    workspace_id: Ignored = None

    ec_transfer_params: Annotated[Any, unsupported(None)] = None
    kv_transfer_params: Annotated[Any, unsupported(None)] = None
    mm_payload: Annotated[Any, unsupported("tensors", None)] = "tensors"
    return_mm_kwargs: Annotated[Any, unsupported(None, False)] = None
    vllm_xargs: Annotated[Any, unsupported(None, {})] = None
    watermarking: Annotated[Any, unsupported(None, False)] = None
