"""The pool's configuration: built once at the start, frozen, passed to every process as a file.

Unknown keys and bad values raise pydantic's ValidationError, which names the key.
"""

import re
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

from headrace.protocol.autoscaling import Autoscaling, Workers
from headrace.protocol.calls import SleepLevel
from headrace.protocol.reasoning import ReasoningFormat

# Names that every chat template gets; other variables must not replace them.
RESERVED_NAMES = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tokenize",
        "bos_token",
        "eos_token",
        "pad_token",
        "unk_token",
        "raise_exception",
        "strftime_now",
        "self",
    }
)
_TOOL_SERVER = re.compile(r"https?://[^/\s@]+(/\S*)?|(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")

Positive = Annotated[int, Field(ge=1)]
SleepIdle = Annotated[float, Field(gt=0)] | None
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8", "int8_dynamic"]
LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]


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
    dtype: Dtype = Field(
        "auto",
        description=(
            "float32, bfloat16, float16, or auto: the checkpoint's, and bfloat16 for float32 "
            "where that is fast"
        ),
    )
    quantization: Quantization | None = Field(
        None,
        description=(
            "int8: weights of linear layers in 8 bits; int8_dynamic: their inputs, too, which is "
            "faster and less exact; on CPUs only"
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
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None,
        description=(
            "source of seeds for requests without one: a frontend's n-th gets the same after each "
            "start"
        ),
    )
    cpu_kernels: Literal["auto", "native", "torch"] = Field(
        "auto",
        description=(
            "what runs a model on a CPU: native (compiled programs), torch (its operations), or "
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


class ToolOptions(Frozen):
    """Options of finding tool calls in a group's outputs."""

    enable_auto_tool_choice: bool = Field(
        False,
        description=(
            "let the model decide whether it calls tools, as it may wherever a parser is known"
        ),
    )
    tool_call_parser: Annotated[str, Field(min_length=1)] | None = Field(
        "auto",
        description=(
            "how the model writes calls: auto (as its chat template does), none, hermes, "
            'llama3_json, mistral, ... (docs/tools.md), or generic:{"start": "<call>", "end": '
            '"</call>"}'
        ),
    )
    tool_parser_plugin: Path | None = Field(
        None, description="Python file that registers more parsers"
    )
    exclude_tools_when_tool_choice_none: bool = Field(
        False, description="leave tools that must not be called out of prompts"
    )

    @field_validator("tool_call_parser")
    @classmethod
    def _turn_off(cls, value: str | None) -> str | None:
        return None if value == "none" else value

    @field_validator("tool_parser_plugin")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        """Make the path absolute: other processes have other working directories."""
        return None if value is None else value.absolute()


class ServingOptions(ToolOptions):
    """Options of a group's requests and answers in frontends."""

    max_logprobs: Annotated[int, Field(ge=-1)] = Field(
        20,
        description=(
            "log probabilities that a request may ask for at each token; -1: the whole vocabulary"
        ),
    )
    response_role: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        "assistant", description="role of the messages in answers"
    )
    default_chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="arguments of chat templates, unless requests give others"
    )
    chat_template_content_format: Literal["auto", "string", "openai"] = Field(
        "auto",
        description=(
            "how chat templates get a message's text parts: string (joined), openai (as a list), "
            "or auto (as the template reads them)"
        ),
    )
    trust_request_chat_template: bool = Field(
        False, description="run chat templates that requests bring"
    )
    return_tokens_as_token_ids: bool = Field(
        False,
        description='name tokens of log probabilities "token_id:5", unless requests say otherwise',
    )
    enable_prompt_tokens_details: bool = Field(
        True, description="report cached prompt tokens in the usage"
    )
    enable_force_include_usage: bool = Field(
        False, description="end all streams with the usage, whether requests ask for it or not"
    )

    @field_validator("default_chat_template_kwargs")
    @classmethod
    def _leave_reserved_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        reserved = sorted(RESERVED_NAMES & value.keys())
        if reserved:
            raise ValueError(f"must not hold {', '.join(reserved)}")
        return value


class GroupConfig(Frozen):
    """A model, how it runs, and on how many workers.

    model: as the operator gave it. model_path: the folder with the prepared model.
    served_names: its names in requests; answers use the first.
    text_path: its text folder, for frontends (see headrace.protocol.text).
    workers: the initial size. autoscaling: None: only operators change the size.
    sleep_idle_seconds: a worker without requests for so long sleeps; None: never.
    sleep_idle_level: 1 releases its cache, 2 also its weights.
    reasoning_parser: how reasoning is separated from the rest of answers; None: it is not; auto: as
        the chat template tells.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
    model: str
    model_path: Path
    text_path: Path
    served_names: Annotated[tuple[str, ...], Field(min_length=1)]
    task: Literal["generate"] = "generate"
    autoscaling: Autoscaling | None = None
    workers: Workers = 1
    sleep_idle_seconds: SleepIdle = None
    sleep_idle_level: SleepLevel = 1
    engine: EngineConfig = EngineConfig()
    reasoning_parser: ReasoningFormat | Literal["auto"] | None = None
    serving: ServingOptions = ServingOptions()

    @field_validator("workers")
    @classmethod
    def _within_limits(cls, value: int, info: ValidationInfo) -> int:
        limits = info.data.get("autoscaling")
        least, most = (1, value) if limits is None else (limits.min_workers, limits.max_workers)
        if not least <= value <= most:
            raise ValueError(f"must be at least {least} and at most {most}")
        return value


class PoolOptions(Frozen):
    """Options of a pool as a whole."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8000, description="port to listen on; 0: any free one"
    )
    uds: Path | None = Field(
        None, description="Unix socket to listen on, instead of a host and port"
    )
    frontends: Positive = Field(2, description="HTTP processes")
    metrics_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*:?$")] = Field(
        "headrace:", description="prefix of metric names; vllm makes dashboards of vLLM work"
    )
    max_body_bytes: Positive = Field(
        8 * 1024 * 1024, description="size of the largest request body"
    )
    enable_tokenizer_info: bool = Field(False, description="serve /tokenizer_info")
    root_path: str = Field(
        "",
        description=(
            "prefix under which a proxy serves this server; routes answer with and without it"
        ),
    )
    shutdown_timeout_s: Annotated[float, Field(ge=0)] = Field(
        30.0, description="seconds for requests to finish after SIGTERM"
    )
    stall_timeout_s: Annotated[float, Field(gt=0)] = Field(
        10.0,
        description=(
            "seconds without a step after which a worker with work is restarted, and without a "
            "message after which a frontend or the coordinator is"
        ),
    )
    max_replays: Annotated[int, Field(ge=0)] = Field(
        3,
        description=(
            "how often a request is replayed after failures of workers that it may have caused; "
            "then it ends with an error"
        ),
    )
    request_timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description=(
            "seconds after which a request without an answer ends with 504; clients may ask for "
            "less by X-Request-Timeout-Ms"
        ),
    )
    start_timeout_s: Annotated[float, Field(gt=0)] = Field(
        600.0, description="seconds for a worker to become ready; then it is restarted"
    )
    wake_on_demand: bool = Field(
        True, description="let requests wake a group whose workers all sleep"
    )
    wake_timeout_s: Annotated[float, Field(gt=0)] = Field(
        120.0, description="seconds that requests wait for a sleeping group to wake up"
    )
    reject_while_scaling: bool = Field(
        False, description="answer 503 while workers of the requested model are added or removed"
    )
    enable_admin: bool = Field(
        False,
        description=(
            "serve the routes that act on the pool (/sleep, /pause, ...), to every client that "
            "reaches the server"
        ),
    )
    warm_starts: bool = Field(
        True, description="fork workers from a process that has imported what they need"
    )
    lora_dir: Path | None = Field(
        None, description="folder of the LoRA adapters that may be loaded while the pool runs"
    )
    profile_dir: Path | None = Field(
        None, description="folder in which /start_profile writes traces"
    )
    profile_max_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="seconds after which a profile ends by itself"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error"
    )
    disable_log_stats: bool = Field(False, description="do not log the throughput of each group")
    log_stats_interval_s: Annotated[float, Field(gt=0)] = Field(
        10.0, description="seconds between lines of throughput while there is work"
    )
    enable_log_requests: bool = Field(False, description="log requests with their prompts")
    enable_log_outputs: bool = Field(
        False, description="log outputs, too; needs enable_log_requests"
    )
    max_log_len: Annotated[int, Field(ge=0)] | None = Field(
        None, description="characters, or token ids, of each prompt and output in the log"
    )
    response_store_url: str | None = Field(
        None, description="database of /v1/responses: sqlite:///path or postgresql+psycopg://..."
    )
    response_store_max_age_s: Annotated[float, Field(gt=0)] = Field(
        30 * 24 * 3600.0, description="seconds that responses are kept"
    )
    response_store_max_count: Annotated[int, Field(ge=0)] = Field(
        10_000, description="responses that are kept"
    )
    tool_server: tuple[str, ...] = Field(
        (),
        description=(
            "servers whose tools responses may use: demo, or host:port or URL of MCP servers, "
            "separated by commas"
        ),
    )

    @field_validator("enable_log_outputs")
    @classmethod
    def _log_outputs_with_requests(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("enable_log_requests"):
            raise ValueError("needs enable_log_requests")
        return value

    @field_validator("lora_dir", "profile_dir")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        """Make the path absolute: other processes have other working directories."""
        return None if value is None else value.absolute()

    @field_validator("response_store_url")
    @classmethod
    def _check_store(cls, value: str | None) -> str | None:
        """Check the URL. It may contain a password, which errors must not show."""
        if value is None or value.startswith("postgresql+psycopg://"):
            return value
        scheme, _, path = value.partition(":///")
        if scheme != "sqlite" or not path or path.startswith((":", "file:")):
            raise ValueError("must be sqlite:///path or postgresql+psycopg://user@host/database")
        return f"sqlite:///{Path(path).absolute()}"

    @field_validator("tool_server", mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("tool_server")
    @classmethod
    def _check_tool_servers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if entry != "demo" and not _TOOL_SERVER.fullmatch(entry):
                raise ValueError(f"must be demo, host:port or a URL: {entry!r}")
        return value

    @field_validator("metrics_prefix", mode="before")
    @classmethod
    def _end_with_colon(cls, value: Any) -> Any:
        return value + ":" if isinstance(value, str) and not value.endswith(":") else value


class PoolConfig(PoolOptions):
    """The whole configuration of one pool.

    run_dir: folder of sockets, metrics and this file; mode 0700.
    started_at: Unix time of the launch in seconds, the same in every process.
    """

    run_dir: Path
    started_at: int = 0
    groups: Annotated[tuple[GroupConfig, ...], Field(min_length=1)]

    @property
    def response_store(self) -> str:
        """The URL of the database for responses."""
        return self.response_store_url or f"sqlite:///{(self.run_dir / 'responses.db').absolute()}"

    @property
    def metrics_dir(self) -> Path:
        """The folder with the metric files of all processes."""
        return self.run_dir / "metrics"

    def group(self, name: str) -> GroupConfig:
        """Return a group. Raises KeyError if there is none of that name."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def save(self) -> None:
        """Write the configuration to the file that `load` reads."""
        self.file(self.run_dir).write_text(self.model_dump_json(indent=1))

    @classmethod
    def load(cls, run_dir: Path) -> "PoolConfig":
        """Read the configuration of a run directory."""
        return cls.model_validate_json(cls.file(run_dir).read_text())

    @staticmethod
    def file(run_dir: Path) -> Path:
        """Return the path of the configuration."""
        return run_dir / "pool.json"
