"""The shapes of responses, for the API's description; responses are not built from these models."""

from typing import Any, Literal

from pydantic import BaseModel, RootModel


class ErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None
    code: int | str


class ErrorAnswer(BaseModel):
    """detail: only where a model does something else than the route."""

    error: ErrorInfo
    detail: str = ""


class PromptTokensDetails(BaseModel):
    cached_tokens: int
    created_cache_tokens: int = 0


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class Usage(BaseModel):
    """The tokens of a request and its answer.

    completion_tokens_details: for chats with a model that has a reasoning parser.
    """

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails | None
    completion_tokens_details: CompletionTokensDetails | None = None


class CalledFunction(BaseModel):
    name: str
    arguments: str


class CalledTool(BaseModel):
    id: str
    type: str
    function: CalledFunction


class AssistantMessage(BaseModel):
    role: str
    content: str | None
    refusal: str | None
    annotations: list[Any] | None
    audio: Any | None
    function_call: Any | None
    tool_calls: list[CalledTool] | None = None
    reasoning: str | None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: dict[str, Any] | None
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | None


class ChatCompletion(BaseModel):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    service_tier: str | None
    system_fingerprint: str | None
    usage: Usage
    prompt_logprobs: list[dict[str, Any] | None] | None
    prompt_token_ids: list[int] | None
    prompt_text: str | None


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | None
    prompt_logprobs: list[dict[str, Any] | None] | None
    prompt_token_ids: list[int] | None


class Completion(BaseModel):
    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    service_tier: str | None
    system_fingerprint: str
    usage: Usage


class Invocation(RootModel[ChatCompletion | Completion]):
    pass


class AnthropicError(BaseModel):
    type: str
    message: str


class AnthropicErrorAnswer(BaseModel):
    type: str
    error: AnthropicError
    request_id: str


class AnthropicUsage(BaseModel):
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(BaseModel):
    id: str
    type: str
    role: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    stop_details: Any | None
    usage: AnthropicUsage


class CountedContext(BaseModel):
    original_input_tokens: int


class InputTokenCount(BaseModel):
    """The size of a response's input."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class Conversation(BaseModel):
    """A conversation, without its items."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class TokenCount(BaseModel):
    input_tokens: int
    context_management: CountedContext


class Model(BaseModel):
    id: str
    object: str
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    tasks: list[str]
    permission: list[dict[str, Any]]


class ModelList(BaseModel):
    object: str
    data: list[Model]


class ServerLoad(BaseModel):
    server_load: int


class ServerVersion(BaseModel):
    version: str
