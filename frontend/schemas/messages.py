"""The requests of POST /v1/messages and /v1/messages/count_tokens."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, FailFast, Field

from headrace.frontend.schemas.chat import ReasoningEffort, TemplateArguments
from headrace.frontend.schemas.fields import (
    Float,
    Ignored,
    Int,
    Name,
    RequestModel,
    StopText,
    bad_value,
    unsupported,
)
from headrace.frontend.schemas.generation import MAX_TEMPERATURE
from headrace.frontend.schemas.limits import at_most_of
from headrace.frontend.schemas.message_blocks import ContentBlocks, TextBlocks
from headrace.frontend.schemas.message_tools import AnthropicToolChoice, AnthropicTools

# More than OpenAI's API allows; each character of the output is compared with each.
MAX_STOP_SEQUENCES_CHARS = 16_384


class InputMessage(RequestModel):
    role: Literal["user", "assistant", "system"]
    content: ContentBlocks


class Thinking(RequestModel):
    """Whether the model thinks.

    budget_tokens: required if the type is "enabled". "adaptive": the model decides.
    """

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[Int, Field(ge=1, lt=2**31)] | None = None
    display: Literal["summarized", "omitted", "updates"] | None = None


class OutputFormat(RequestModel):
    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(RequestModel):
    effort: ReasoningEffort = None
    format: OutputFormat | None = None


class Metadata(RequestModel):
    user_id: Annotated[str, Field(max_length=1024)] | None = None


# Validation stops at the first invalid message: only one error is reported.
InputMessages = Annotated[
    list[InputMessage],
    FailFast(),
    Field(min_length=1),
    at_most_of("max_messages"),
]


def _limit_chars(stops: list[str]) -> list[str]:
    if sum(map(len, stops)) > MAX_STOP_SEQUENCES_CHARS:
        raise bad_value(f"must hold at most {MAX_STOP_SEQUENCES_CHARS} characters together")
    return stops


StopSequences = Annotated[
    list[StopText],
    at_most_of("max_stop_sequences"),
    AfterValidator(_limit_chars),
]


class CountTokensRequest(RequestModel):
    """The fields that the prompt is made of."""

    model: Name
    messages: InputMessages
    system: TextBlocks = Field(default_factory=list)
    tools: AnthropicTools = Field(default_factory=list)
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    chat_template_kwargs: TemplateArguments | None = None

    # A conversation that the server keeps: a part of one must not be taken for all of it.
    thread: Any = None

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
