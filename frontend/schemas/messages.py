"""POST /v1/messages and /v1/messages/count_tokens: the requests."""

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
    """What all kinds of content blocks may have. Prompts are cached without being asked to."""

    cache_control: Ignored = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: Ignored = None


class ThinkingBlock(Block):
    """What the model thought earlier. signature: as it was answered; nothing hangs on it."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Block):
    """Thoughts that only the server of another model can read."""

    type: Literal["redacted_thinking"]
    data: Ignored = None


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: Id
    name: Id
    input: dict[str, Any] = Field(default_factory=dict)
    caller: Ignored = None
    toolset_name: Ignored = None


def _of_kinds(*kinds: str) -> BeforeValidator:
    """Blocks of other kinds are told apart from malformed ones: most are fine in Anthropic's API,
    but not for this model."""

    def check(block: Any) -> Any:
        if not isinstance(block, dict):
            raise wrong_type("a content block must be an object")
        kind = block.get("type")
        if not isinstance(kind, str):
            raise wrong_type("a content block must have a type")
        if kind not in kinds:
            known = ", ".join(kinds)
            raise bad_value(f"this model takes no {kind[:40]!r} blocks here, only {known}")
        return block

    return BeforeValidator(check)


def _blocks(content: Any) -> Any:
    """Text alone is one block of text."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _empty_without(value: Any) -> Any:
    return [] if value is None else value


# What is text only: the system prompt, and what tools have answered.
TextBlocks = Annotated[
    list[Annotated[TextBlock, _of_kinds("text")]],
    FailFast(),
    Field(max_length=MAX_BLOCKS),
    at_most(MAX_BLOCKS),
    BeforeValidator(_blocks),
    BeforeValidator(_empty_without, json_schema_input_type=str | list[TextBlock] | None),
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
    _of_kinds("text", "thinking", "redacted_thinking", "tool_use", "tool_result"),
]
ContentBlocks = Annotated[
    list[ContentBlock],
    FailFast(),
    Field(max_length=MAX_BLOCKS),
    at_most(MAX_BLOCKS),
    BeforeValidator(_blocks, json_schema_input_type=str | list[ContentBlock]),
]


class InputMessage(RequestModel):
    role: Literal["user", "assistant", "system"]
    content: ContentBlocks


class AnthropicTool(RequestModel):
    """A function that the client runs. Tools that Anthropic's servers run are not here."""

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


def _for_clients(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind != "custom":
        raise bad_value(f"this server has no tools of type {kind[:40]!r}, only the client's own")
    return tool


class AnthropicToolChoice(RequestModel):
    """name: of the tool, where the type is "tool"."""

    type: Literal["auto", "any", "tool", "none"]
    name: Id | None = None
    disable_parallel_tool_use: bool | None = False


class ThinkingConfig(RequestModel):
    """budget_tokens: needed where it is enabled. adaptive: as the model does by itself."""

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


# The first message at fault ends the validation: only one error is told.
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
    """All that the prompt is made of."""

    model: Name
    messages: InputMessages
    system: TextBlocks = Field(default_factory=list)
    tools: Tools = Field(default_factory=list)
    tool_choice: AnthropicToolChoice | None = None
    thinking: ThinkingConfig | None = None
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
