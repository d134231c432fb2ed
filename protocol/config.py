"""The pool's configuration: built once at the start, frozen, passed to every process as a file.

Unknown keys and bad values raise pydantic's ValidationError, which names the key.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
)

from headrace.protocol.access_options import AccessOptions
from headrace.protocol.autoscaling import Autoscaling, Workers
from headrace.protocol.calls import SleepLevel
from headrace.protocol.common.atomic_write import write_atomically
from headrace.protocol.common.speech.speech_options import AudioOptions, SpeechOptions
from headrace.protocol.engine_config import AbsolutePath
from headrace.protocol.engine_config import CpuKernels as CpuKernels
from headrace.protocol.engine_config import Dtype as Dtype
from headrace.protocol.engine_config import EngineConfig as EngineConfig
from headrace.protocol.engine_config import Frozen as Frozen
from headrace.protocol.engine_config import KernelSet as KernelSet
from headrace.protocol.engine_config import KvCacheDtype as KvCacheDtype
from headrace.protocol.engine_config import LoraRank as LoraRank
from headrace.protocol.engine_config import Positive as Positive
from headrace.protocol.engine_config import Quantization as Quantization
from headrace.protocol.engine_config import SpeculativeConfig as SpeculativeConfig
from headrace.protocol.http_options import HTTPOptions
from headrace.protocol.limit_options import LimitOptions
from headrace.protocol.log_options import LogOptions
from headrace.protocol.network.connection_options import ConnectionOptions, TLSOptions
from headrace.protocol.reasoning import ReasoningFormat
from headrace.protocol.store_options import StoreOptions

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

CpuWeight = Annotated[int, Field(ge=1, le=10_000)]
DEFAULT_CPU_WEIGHT = 100
SleepIdle = Annotated[float, Field(gt=0)] | None
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


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
    tool_parser_plugin: AbsolutePath | None = Field(
        None, description="Python file that registers more parsers"
    )
    exclude_tools_when_tool_choice_none: bool = Field(
        False, description="leave tools that must not be called out of prompts"
    )

    @field_validator("tool_call_parser")
    @classmethod
    def _turn_off(cls, value: str | None) -> str | None:
        return None if value == "none" else value


class ServingOptions(ToolOptions, SpeechOptions):
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

    stream_interval: Positive = Field(
        1, description="tokens in an event of a stream, but for its first and its last"
    )
    reasoning_effort_map: dict[ReasoningEffort, Annotated[str, Field(max_length=64)]] = Field(
        default_factory=dict,
        description="reasoning efforts that the chat template gets instead of those of requests",
    )
    tool_strict_level: Literal["auto", "function", "parameter"] = Field(
        "auto",
        description=(
            "which calls are held to their tools: auto (of strict tools), function (no others are "
            "made), parameter (their schemas too, as if all were strict)"
        ),
    )
    enable_per_request_metrics: bool = Field(
        False, description="report a request's times in its answer"
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
    cpu_weight: what of the cores its workers get, against other groups', where all are busy.
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
    autoscaling: Autoscaling | None = None
    workers: Workers = 1
    cpu_weight: CpuWeight = DEFAULT_CPU_WEIGHT
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


class PoolOptions(
    HTTPOptions,
    TLSOptions,
    ConnectionOptions,
    LimitOptions,
    AccessOptions,
    LogOptions,
    StoreOptions,
    AudioOptions,
):
    """Options of a pool as a whole."""

    metrics_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*:?$")] = Field(
        "headrace:", description="prefix of metric names; vllm makes dashboards of vLLM work"
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
    reload_surge: bool = Field(
        True,
        description="in a rolling restart (SIGHUP), start a worker's successor before the worker "
        "leaves, where memory allows",
    )
    warm_starts: bool = Field(
        True, description="fork workers from a process that has imported what they need"
    )
    lora_dir: AbsolutePath | None = Field(
        None, description="folder of the LoRA adapters that may be loaded while the pool runs"
    )
    profile_dir: AbsolutePath | None = Field(
        None, description="folder in which /start_profile writes traces"
    )
    profile_max_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="seconds after which a profile ends by itself"
    )
    fingerprint_mode: Literal["full", "hash", "custom", "none"] = Field(
        "full",
        description=(
            "system_fingerprint of answers: full or hash (of server and model), custom "
            "(--fingerprint-value) or none"
        ),
    )
    fingerprint_value: Annotated[str, Field(max_length=256)] | None = Field(
        None,
        validate_default=True,
        description="system_fingerprint of answers in the custom mode",
    )
    tool_server: tuple[str, ...] = Field(
        (),
        description=(
            "servers whose tools responses may use: demo, or host:port or URL of MCP servers, "
            "separated by commas"
        ),
    )

    @field_validator("fingerprint_value")
    @classmethod
    def _only_in_the_custom_mode(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (info.data.get("fingerprint_mode") == "custom") != (value is not None):
            raise ValueError("and fingerprint_mode custom need each other")
        return value

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
                raise ValueError(f"must be demo, host:port or a URL: {entry[:100]!r}")
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
    def files(self) -> Path:
        """The folder of files."""
        return self.file_dir or (self.run_dir / "files").absolute()

    @property
    def keeps_batches(self) -> bool:
        """Whether files and batches outlive the run directory, which is emptied at each start."""
        run_dir, store = self.run_dir.absolute(), self.response_store
        is_inside = [Path(self.files).is_relative_to(run_dir)]
        if store.startswith("sqlite"):
            is_inside.append(Path(store.partition(":///")[2]).is_relative_to(run_dir))
        return not any(is_inside)

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
        """Write the configuration to the file that `load` reads, whole or not at all."""
        write_atomically(self.file(self.run_dir), self.model_dump_json(indent=1))

    @classmethod
    def load(cls, run_dir: Path) -> "PoolConfig":
        """Read the configuration of a run directory."""
        return cls.model_validate_json(cls.file(run_dir).read_text())

    @staticmethod
    def file(run_dir: Path) -> Path:
        """Return the path of the configuration."""
        return run_dir / "pool.json"
