"""The pool's configuration: built once at entry, frozen, handed to every process as a file.

Unknown keys are refused; bad values raise pydantic's ValidationError, which names the key.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from protocol.reasoning import ReasoningFormat

Positive = Annotated[int, Field(ge=1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8", "int8_dynamic"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SpeculativeConfig(Frozen):
    """Speculative decoding: several tokens of a text are guessed and checked in one step.

    method: "ngram" looks the text's last tokens up in the text before them and guesses that it goes
        on as it did there.
    num_speculative_tokens: guessed at once, at most.
    prompt_lookup_max, prompt_lookup_min: how many last tokens are looked up, the longest first. One
        that is missing equals the other; without both it is 5.
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
    """How a worker of a group runs its model.

    kv_cache_bytes: size of the paged cache in each worker; None: from the memory that is free.
    memory_utilization: share of a GPU's memory that one worker may use.
    max_num_batched_tokens: tokens in one engine step; longer prompts are run in chunks. None:
        what suits the device.
    quantization: "int8" rounds the weights of linear layers; "int8_dynamic" also each row that is
        multiplied with them, which is faster. None: neither.
    cpu_kernels: what runs a model on a CPU: compiled kernels ("native"), torch's operations, or
        the kernels wherever they can.
    threads: CPU threads of each worker; None: the machine's, shared out.
    speculative_config: None: no speculative decoding.
    seed: from which requests without a seed of their own get theirs; None: unpredictable.
    engine: "fake" needs no model: its tokens are a pure function of those before them.
    fake_step_s: how long a step of the fake engine takes.
    """

    engine: Literal["torch", "fake"] = "torch"
    dtype: Dtype = "auto"
    quantization: Quantization | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_model_len: Positive | None = None
    max_num_seqs: Positive = 128
    max_num_batched_tokens: Positive | None = None
    kv_cache_bytes: Positive | None = None
    memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    block_size: Positive = 16
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    speculative_config: SpeculativeConfig | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    cpu_kernels: Literal["auto", "native", "torch"] = "auto"
    threads: Positive | None = None
    fake_step_s: Annotated[float, Field(ge=0)] = 0.0


class GroupConfig(Frozen):
    """A model, how it is run, and by how many workers.

    model: as the operator gave it. model_path: the folder that it was prepared into.
    served_names: what requests may call it; the first is what answers call it.
    text_path: folder with what frontends need of it (see protocol.text).
    reasoning_parser: how reasoning is told from the rest of answers; None: it is not.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
    model: str
    model_path: Path
    text_path: Path
    served_names: Annotated[tuple[str, ...], Field(min_length=1)]
    task: Literal["generate"] = "generate"
    workers: Positive = 1
    engine: EngineConfig = EngineConfig()
    reasoning_parser: ReasoningFormat | None = None


class PoolOptions(Frozen):
    """What an operator chooses for a pool as a whole.

    host, port, uds: where HTTP is served; uds excludes the other two.
    stall_timeout_s: a worker with work and no step for so long is taken for dead.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    uds: Path | None = None
    frontends: Positive = 2
    metrics_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*:?$")] = "headrace:"
    max_body_bytes: Positive = 8 * 1024 * 1024
    enable_tokenizer_info: bool = False
    root_path: str = ""
    shutdown_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    stall_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("metrics_prefix", mode="before")
    @classmethod
    def _end_with_colon(cls, value: Any) -> Any:
        return value + ":" if isinstance(value, str) and not value.endswith(":") else value


class PoolConfig(PoolOptions):
    """Everything that the processes of one pool are started with.

    run_dir: sockets, metrics and this file; mode 0700.
    started_at: Unix time of the launch, in seconds; every process gives the same.
    """

    run_dir: Path
    started_at: int = 0
    groups: Annotated[tuple[GroupConfig, ...], Field(min_length=1)]

    @property
    def metrics_dir(self) -> Path:
        """Where prometheus_client keeps the numbers of all processes."""
        return self.run_dir / "metrics"

    def group(self, name: str) -> GroupConfig:
        """The group of that name; KeyError if there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def save(self) -> None:
        """Write the configuration to where `load` reads it."""
        self.file(self.run_dir).write_text(self.model_dump_json(indent=1))

    @classmethod
    def load(cls, run_dir: Path) -> "PoolConfig":
        return cls.model_validate_json(cls.file(run_dir).read_text())

    @staticmethod
    def file(run_dir: Path) -> Path:
        return run_dir / "pool.json"
