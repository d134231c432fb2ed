"""The request of POST /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from headrace.frontend.schemas.chat import ReasoningEffort
from headrace.frontend.schemas.fields import Ignored, Int, Name, RequestModel, at_most, unsupported
from headrace.frontend.schemas.generation import LogprobCount
from headrace.frontend.schemas.limits import at_most_of

MAX_METADATA = 16

Item = dict[str, Any]

INCLUDE_LOGPROBS = "message.output_text.logprobs"
INCLUDE_REASONING = "reasoning.encrypted_content"
Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    # For tools and inputs that are not supported; there is never anything to include.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]

# All are served alike.
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]

# A field that chat requests have under the same name; ChatCompletionRequest validates it.
PassedOn = Annotated[Any, Field(description="As in chat completions.")]


# Some clients write "none" for no summary.
Summary = Annotated[
    Literal["auto", "concise", "detailed"] | None,
    BeforeValidator(lambda value: None if value == "none" else value),
]


class Reasoning(RequestModel):
    """Options of the model's reasoning.

    summary: accepted without effect: the answer holds the reasoning itself, not a summary.
    """

    effort: ReasoningEffort = None
    summary: Summary = None
    generate_summary: Summary = None


class TextFormat(RequestModel):
    """The format of the output text.

    schema_: a JSON schema, for type json_schema.
    """

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(max_length=64)] | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(RequestModel):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


def _conversation_id(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


ConversationId = Annotated[
    str,
    Field(max_length=128),
    BeforeValidator(_conversation_id, json_schema_input_type=str | dict[str, str] | None),
]

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA),
]


class PassedOnFields(RequestModel):
    """Fields that chat requests have under the same name."""

    temperature: PassedOn = None
    top_p: PassedOn = None
    top_k: PassedOn = None
    min_p: PassedOn = None
    presence_penalty: PassedOn = None
    frequency_penalty: PassedOn = None
    repetition_penalty: PassedOn = None
    logit_bias: PassedOn = None
    seed: PassedOn = None
    stop: PassedOn = None
    stop_token_ids: PassedOn = None
    ignore_eos: PassedOn = None
    include_stop_str_in_output: PassedOn = None
    skip_special_tokens: PassedOn = None
    structured_outputs: PassedOn = None
    include_reasoning: PassedOn = None
    parallel_tool_calls: bool | None = True
    priority: PassedOn = None
    cache_salt: PassedOn = None
    user: PassedOn = None
    chat_template_kwargs: PassedOn = None
    watermarking: PassedOn = None
    session_id: PassedOn = None
    media_io_kwargs: PassedOn = None
    mm_processor_kwargs: PassedOn = None
    mm_payload: PassedOn = None
    return_mm_kwargs: PassedOn = None
    vllm_xargs: PassedOn = None
    kv_transfer_params: PassedOn = None
    ec_transfer_params: PassedOn = None


class ResponsesRequest(PassedOnFields):
    """A request for a response.

    input: a text of the user, or the items of a conversation.
    conversation: the id of the conversation that the response continues and adds to.
    max_tool_calls: calls of tools that this server runs.
    enable_response_messages: whether the response holds prompt and output as the model has them.
    """

    input: str | Annotated[list[Item], at_most_of("max_messages")] | None = None
    model: Name | None = None
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    conversation: ConversationId | None = None
    background: bool | None = False
    store: bool | None = True
    stream: bool | None = False
    stream_options: Ignored = None
    max_output_tokens: Annotated[Int, Field(ge=1)] | None = None
    max_tool_calls: Annotated[Int, Field(ge=0, lt=2**31)] | None = None
    metadata: Metadata | None = None
    include: Annotated[list[Include], Field(max_length=64), at_most(64)] | None = None
    top_logprobs: LogprobCount | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    tools: Annotated[list[Item], at_most_of("max_tools")] | None = None
    tool_choice: str | Item | None = None
    truncation: Literal["auto", "disabled"] | None = "disabled"
    service_tier: ServiceTier | None = "auto"
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    client_metadata: Ignored = None
    context_management: Ignored = None
    moderation: Ignored = None
    safety_identifier: Ignored = None
    request_id: Ignored = None
    enable_response_messages: bool | None = False

    prompt: Annotated[Any, unsupported(None)] = None
    previous_input_messages: Annotated[Any, unsupported(None, [])] = None

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def has_logprobs(self) -> bool:
        return INCLUDE_LOGPROBS in (self.include or ())


class CompactionRequest(RequestModel):
    """A conversation to compact. Further fields of a response's request have no effect."""

    model: Name | None = None
    input: str | Annotated[list[Item], at_most_of("max_messages")] | None = None
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    tools: Ignored = None
    parallel_tool_calls: Ignored = None
    reasoning: Ignored = None
    text: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    service_tier: Ignored = None


def passed_on(request: ResponsesRequest) -> dict[str, Any]:
    """Return the fields of a chat request that this request sets."""
    names = request.model_fields_set & set(PassedOnFields.model_fields)
    return {name: getattr(request, name) for name in names}
