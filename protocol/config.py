"""The pool's configuration: built once at entry, frozen, handed to every process as a file.

Unknown keys are refused; bad values raise pydantic's ValidationError, which names the key.
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
from headrace.protocol.reasoning import ReasoningFormat

# What a chat template is given anyway; what else it is given must not replace it.
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
SleepLevel = Literal[1, 2]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8", "int8_dynamic"]
LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]


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
    max_queue_requests: requests that may wait in each worker for a place in its batch; more are
        refused. max_queue_tokens: prompt tokens that may. None: any number.
    speculative_config: None: no speculative decoding.
    enable_lora: whether requests may name LoRA adapters, which are added while the worker runs.
    max_loras: adapters that one step may have, at most; requests with others wait.
    max_lora_rank: of one adapter, at most.
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
    enable_lora: bool = False
    max_loras: Positive = 8
    max_lora_rank: LoraRank = 16
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    cpu_kernels: Literal["auto", "native", "torch"] = "auto"
    threads: Positive | None = None
    max_queue_requests: Annotated[int, Field(ge=0)] | None = None
    max_queue_tokens: Positive | None = None
    fake_step_s: Annotated[float, Field(ge=0)] = 0.0


class ToolOptions(Frozen):
    """How a group's answers are read for calls of tools.

    enable_auto_tool_choice: whether requests may leave it to the model whether it calls.
    tool_call_parser: how the model writes calls: a parser's name, and perhaps its settings after a
        colon.
    tool_parser_plugin: a Python file that registers parsers.
    exclude_tools_when_tool_choice_none: whether prompts say nothing of tools that must not be
        called.
    """

    enable_auto_tool_choice: bool = False
    tool_call_parser: Annotated[str, Field(min_length=1)] | None = None
    tool_parser_plugin: Path | None = None
    exclude_tools_when_tool_choice_none: bool = False

    @field_validator("tool_parser_plugin")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        """Processes elsewhere read it."""
        return None if value is None else value.absolute()


class ServingOptions(ToolOptions):
    """How frontends take a group's requests and write its answers.

    max_logprobs: log probabilities that a request may ask for at each token; -1: the vocabulary's.
    response_role: whose messages the answers are.
    default_chat_template_kwargs: what templates get unless the request says otherwise.
    chat_template_content_format: whether templates get a message's text parts joined ("string") or
        as a list ("openai"); "auto" asks the template.
    trust_request_chat_template: whether a request may bring a template of its own.
    return_tokens_as_token_ids: how tokens of log probabilities are named unless the request says.
    enable_prompt_tokens_details: whether usage says how much of the prompt came from the cache.
    enable_force_include_usage: streams end with the usage, asked for or not.
    """

    max_logprobs: Annotated[int, Field(ge=-1)] = 20
    response_role: Annotated[str, Field(min_length=1, max_length=64)] = "assistant"
    default_chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    chat_template_content_format: Literal["auto", "string", "openai"] = "auto"
    trust_request_chat_template: bool = False
    return_tokens_as_token_ids: bool = False
    enable_prompt_tokens_details: bool = True
    enable_force_include_usage: bool = False

    @field_validator("default_chat_template_kwargs")
    @classmethod
    def _leave_reserved_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(RESERVED_NAMES & value.keys())
        if taken:
            raise ValueError(f"must not hold {', '.join(taken)}")
        return value


class GroupConfig(Frozen):
    """A model, how it is run, and by how many workers.

    model: as the operator gave it. model_path: the folder that it was prepared into.
    served_names: what requests may call it; the first is what answers call it.
    text_path: folder with what frontends need of it (see headrace.protocol.text).
    workers: how many it begins with. autoscaling: by what it has more or fewer; None: by what
        operators say alone.
    sleep_idle_seconds: a worker without requests for so long sleeps; None: it does not.
    sleep_idle_level: 1 drops its cache, 2 also its weights.
    reasoning_parser: how reasoning is told from the rest of answers; None: it is not.
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
    reasoning_parser: ReasoningFormat | None = None
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
    """What an operator chooses for a pool as a whole.

    host, port, uds: where HTTP is served; uds excludes the other two.
    request_timeout_s: requests that have not been answered by then are ended; None: never.
    max_replays: how often a request goes on elsewhere after failures that it may be to blame for.
    stall_timeout_s: a worker with work and no step for so long is taken for dead.
    start_timeout_s: a worker that is not ready so long after its start hangs: it is started again.
    wake_on_demand: whether requests wake a worker when all of their group sleep.
    wake_timeout_s: how long they wait for it.
    reject_while_scaling: whether requests get 503 while their model becomes larger or smaller.
    enable_admin: whether the routes that act on the pool are served, to whoever reaches the server.
    warm_starts: whether workers are forked from a process that has imported what they need.
    lora_dir: the folder in which adapters lie that are loaded while the pool runs; None: anywhere.
    profile_dir: where profiles of workers are written; None: none are made.
    profile_max_seconds: how long one may become.
    disable_log_stats, log_stats_interval_s: whether, and how often, the log says how much is done.
    enable_log_requests, enable_log_outputs: frontends log what comes in, and what goes out.
    max_log_len: characters, or token ids, of a text in the log; None: all.
    response_store_url: the database of /v1/responses, sqlite:///path or postgresql+psycopg://...;
        None: a file in the run directory.
    response_store_max_age_s, response_store_max_count: older responses, and more, are deleted.
    tool_server: servers whose tools responses may use: "demo", "host:port" or a URL.
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
    max_replays: Annotated[int, Field(ge=0)] = 3
    request_timeout_s: Annotated[float, Field(gt=0)] | None = None
    start_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    wake_on_demand: bool = True
    wake_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    reject_while_scaling: bool = False
    enable_admin: bool = False
    warm_starts: bool = True
    lora_dir: Path | None = None
    profile_dir: Path | None = None
    profile_max_seconds: Annotated[float, Field(gt=0)] = 60.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    disable_log_stats: bool = False
    log_stats_interval_s: Annotated[float, Field(gt=0)] = 10.0
    enable_log_requests: bool = False
    enable_log_outputs: bool = False
    max_log_len: Annotated[int, Field(ge=0)] | None = None
    response_store_url: str | None = None
    response_store_max_age_s: Annotated[float, Field(gt=0)] = 30 * 24 * 3600.0
    response_store_max_count: Annotated[int, Field(ge=0)] = 10_000
    tool_server: tuple[str, ...] = ()

    @field_validator("enable_log_outputs")
    @classmethod
    def _log_outputs_with_requests(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("enable_log_requests"):
            raise ValueError("needs enable_log_requests")
        return value

    @field_validator("lora_dir", "profile_dir")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        """Other processes run elsewhere."""
        return None if value is None else value.absolute()

    @field_validator("response_store_url")
    @classmethod
    def _check_store(cls, value: str | None) -> str | None:
        """The value may hold a password, and stays out of the error."""
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
    """Everything that the processes of one pool are started with.

    run_dir: sockets, metrics and this file; mode 0700.
    started_at: Unix time of the launch, in seconds; every process gives the same.
    """

    run_dir: Path
    started_at: int = 0
    groups: Annotated[tuple[GroupConfig, ...], Field(min_length=1)]

    @property
    def response_store(self) -> str:
        """Where responses are stored."""
        return self.response_store_url or f"sqlite:///{(self.run_dir / 'responses.db').absolute()}"

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
