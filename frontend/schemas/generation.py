"""Request fields that chat completions and completions share."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from headrace.frontend.schemas.fields import (
    INT64,
    Float,
    Ignored,
    Int,
    Name,
    RequestModel,
    Stops,
    StopTokenIds,
    unsupported,
)
from headrace.frontend.schemas.limits import no_more_than
from headrace.frontend.schemas.structured import ResponseFormat, StructuredOutputs
from headrace.frontend.schemas.token_constraints import ConstraintFields

# Workers compute in float32, where much larger values are infinite. At this temperature all tokens
# are equally likely already.
MAX_TEMPERATURE = 1e4

# -1 stands for all tokens. The operator sets the maximum.
LogprobCount = Annotated[Int, Field(ge=-1, lt=2**31)]


class StreamOptions(RequestModel):
    """Options of a streamed answer.

    include_usage: end the stream with a chunk that holds the usage.
    continuous_usage_stats: put the usage into every chunk.
    """

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class SamplingFields(RequestModel):
    """Fields of sampling and of the end of outputs. None stands for the model's default."""

    temperature: Annotated[Float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Float, Field(ge=1e-3, le=1e3)] | None = None
    presence_penalty: Annotated[Float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[Int, Field(ge=-INT64, lt=INT64)] | None = None
    n: Annotated[Int, Field(ge=1), no_more_than("max_n")] | None = 1
    stop: Stops = Field(default_factory=list)
    stop_token_ids: StopTokenIds = Field(default_factory=list)
    min_tokens: Annotated[Int, Field(ge=0, lt=2**31)] = 0
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: LogprobCount | None = None
    thinking_token_budget: Annotated[Int, Field(ge=-1, lt=2**31)] | None = None


class UnsupportedFields(RequestModel):
    """Fields of the reference for unsupported features; their default values are accepted."""

    watermarking: Annotated[Any, unsupported(None, False)] = None
    session_id: Annotated[Any, unsupported(None)] = None
    routed_experts_prompt_start: Annotated[Any, unsupported(0, None)] = 0
    mm_payload: Annotated[Any, unsupported("tensors", None)] = "tensors"
    return_mm_kwargs: Annotated[Any, unsupported(None, False)] = None
    kv_transfer_params: Annotated[Any, unsupported(None)] = None
    ec_transfer_params: Annotated[Any, unsupported(None)] = None
    vllm_xargs: Annotated[Any, unsupported(None, {})] = None


class IgnoredFields(RequestModel):
    """Fields without effect.

    They are fields of the OpenAI API that do not affect the output; spaces between special tokens,
    which only tokenizers written in Python insert; and offsets of the prompt's tokens, which the
    reference does not return on these routes either.
    """

    metadata: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    return_token_offsets: bool | None = False
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    spaces_between_special_tokens: bool = True
    store: Ignored = None


class BeamFields(RequestModel):
    """The fields of a beam search.

    use_beam_search: generate n outputs by a beam search of width n.
    """

    use_beam_search: bool | None = False
    length_penalty: Annotated[Float, Field(ge=-10, le=10)] | None = 1.0


class GenerationRequest(
    SamplingFields, ConstraintFields, BeamFields, UnsupportedFields, IgnoredFields
):
    """The fields of a request for generation, chat or not.

    stream_interval: tokens in a chunk of a stream, except its first and last.
    """

    logprobs_field: ClassVar[str] = "logprobs"

    model: Name | None = None
    logprobs: bool | int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=1024)] | None = None
    priority: Annotated[Int, Field(ge=-(2**31), lt=2**31)] = 0
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    stream_interval: Annotated[Int, Field(ge=1, lt=2**31)] | None = None
    truncate_prompt_tokens: Annotated[Int, Field(ge=-1, lt=2**31)] | None = None
    truncation_side: Literal["left", "right"] | None = None

    @property
    def has_logprobs(self) -> bool:
        """Return whether the answer holds log probabilities, which can be many."""
        return bool(self.logprobs) or self.prompt_logprobs is not None

    @property
    def choices_per_prompt(self) -> int:
        return self.n or 1

    @property
    def usage_in_stream(self) -> bool:
        """Return whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_in_chunks(self) -> bool:
        """Return whether every chunk of a stream holds the usage so far."""
        return self.usage_in_stream and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )
