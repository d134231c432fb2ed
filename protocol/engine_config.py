"""The options of running a model in a worker, a part of the pool's configuration."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from headrace.protocol.common.pooling.pooler_config import PoolerConfig

Positive = Annotated[int, Field(ge=1)]
# A path that an operator gives: other processes have other working directories.
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
KvCacheDtype = Literal["auto", "bfloat16", "int8", "fp8"]
Quantization = Literal["int8", "int8_dynamic", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
# The instruction sets that kernels are built for.
KernelSet = Literal["avx512", "avx2vnni", "avx2", "neon", "portable"]
CpuKernels = Literal["auto", "native", "avx512", "avx2vnni", "avx2", "neon", "portable", "torch"]
LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]


_NGRAM = ("ngram", "[ngram]")


class Frozen(BaseModel):
    """Base of the configuration's models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SpeculativeConfig(Frozen):
    """Speculative decoding: several tokens are drafted and verified in one step.

    method: "ngram" (prompt lookup) finds the last tokens earlier in the sequence and drafts the
        tokens that followed there.
    num_speculative_tokens: maximum length of a draft.
    prompt_lookup_max, prompt_lookup_min: how many last tokens are looked up, the longest first. A
        missing one equals the other; without both it is 5.
    """

    method: Literal["ngram"]
    num_speculative_tokens: Annotated[int, Field(ge=1, le=32)]
    prompt_lookup_max: Annotated[int, Field(ge=1, le=32)]
    prompt_lookup_min: Annotated[int, Field(ge=1, le=32)]

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if "method" not in values and values.get("model") in _NGRAM:  # as vLLM once wrote it
            values = {key: value for key, value in values.items() if key != "model"}
            values["method"] = "ngram"
        ends = ("prompt_lookup_max", "prompt_lookup_min")
        given = [values[end] for end in ends if values.get(end) is not None]
        other = given[0] if given else 5
        return values | {end: other for end in ends if values.get(end) is None}

    @field_validator("prompt_lookup_min")
    @classmethod
    def _check_order(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("prompt_lookup_max", value):
            raise ValueError("must not exceed prompt_lookup_max")
        return value


class EngineConfig(Frozen):
    """Options of running a group's model in a worker."""

    engine: Literal["torch", "fake"] = Field(
        "torch",
        description=(
            "torch; or fake, which needs no model: each token is a pure function of those before it"
        ),
    )
    runner: Literal["auto", "generate", "pooling"] = Field(
        "auto",
        description=(
            "what the model is for: generate (text), pooling (embeddings and such), or auto, as "
            "its files say"
        ),
    )
    convert: Literal["auto", "none", "embed", "classify"] = Field(
        "auto",
        description=(
            "a task of a pooling model that its own head does not do: embed, classify, none, or "
            "auto (as its files say)"
        ),
    )
    pooler_config: PoolerConfig | None = Field(
        None,
        description=(
            "how a model pools where that is not what its files say, with the reference's keys, "
            'such as {"enable_chunked_processing": true, "max_embed_len": 8192}'
        ),
    )
    dtype: Dtype = Field(
        "auto",
        description=(
            "float32 (weights in blocks are expanded to it), bfloat16, float16, or auto: the "
            "checkpoint's, and bfloat16 for float32 and float16 where that is fast"
        ),
    )
    quantization: Quantization | None = Field(
        None,
        description=(
            "weights of linear layers in blocks of 32 with a scale each, as in GGUF files: q8_0, "
            "q4_0, q4_1, q5_0, q5_1, their inputs in 8 bits (the head has 8 bits); or with a scale "
            "for each output: int8, or int8_dynamic, their inputs in 8 bits; on CPUs only; weights "
            "that a GGUF file or a checkpoint (GPTQ, AWQ, compressed-tensors, MXFP4) has quantized "
            "stay as they are"
        ),
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="cpu, cuda or auto")
    max_model_len: Positive | None = Field(None, description="tokens of prompt and output together")
    max_num_seqs: Positive = Field(128, description="requests in a batch")
    max_num_batched_tokens: Positive | None = Field(
        None, description="tokens in an engine step; longer prompts are run in chunks"
    )
    kv_cache_bytes: Positive | None = Field(
        None, description="size of each worker's K/V cache, such as 2GiB"
    )
    kv_cache_dtype: KvCacheDtype = Field(
        "auto",
        description=(
            "numbers in the K/V cache: auto (the model's dtype), bfloat16, or 8 bits with a scale "
            "for each token and head, for twice as many tokens: int8, or fp8 (e4m3), which is less "
            "exact; on CPUs only"
        ),
    )
    memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="share of a GPU's memory that a worker may use"
    )
    block_size: Positive = Field(16, description="tokens in a block of the K/V cache")
    enable_prefix_caching: bool = Field(
        True, description="reuse cached blocks for prompts with the same prefix"
    )
    enforce_eager: bool = Field(False, description="use no CUDA graphs")
    speculative_config: SpeculativeConfig | None = Field(
        None,
        description=(
            'guess tokens by prompt lookup, with {"method": "ngram", "num_speculative_tokens": 4} '
            'and perhaps "prompt_lookup_max" and "prompt_lookup_min"'
        ),
    )
    enable_lora: bool = Field(False, description="take requests for LoRA adapters")
    max_loras: Positive = Field(
        8, description="LoRA adapters in an engine step; requests for others wait"
    )
    max_lora_rank: LoraRank = Field(16, description="largest rank of a LoRA adapter")
    trust_remote_code: bool = Field(
        False, description="run Python code that a model brings (auto_map); never without it"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None,
        description=(
            "source of seeds for requests without one: a frontend's n-th gets the same after each "
            "start"
        ),
    )
    cpu_kernels: CpuKernels = Field(
        "auto",
        description=(
            "what runs a model on a CPU: native (compiled programs), one of avx512, avx2vnni, "
            "avx2, neon, portable (programs, for these instructions), torch (its operations), or "
            "auto (programs wherever they can)"
        ),
    )
    threads: Positive | None = Field(None, description="CPU threads of each worker")
    max_queue_requests: Annotated[int, Field(ge=0)] | None = Field(
        None, description="requests that may wait in each worker; more get 429 with Retry-After"
    )
    max_queue_tokens: Positive | None = Field(
        None,
        description="prompt tokens that may wait in each worker; more get 429 with Retry-After",
    )
    fake_step_s: Annotated[float, Field(ge=0)] = Field(
        0.0, description="seconds of a step of the fake engine"
    )

    @property
    def runs_model(self) -> bool:
        """Whether workers run a model, which takes torch and weights; else they imitate one."""
        return self.engine != "fake"
