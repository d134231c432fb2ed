"""From flags and a TOML file to the options of a pool and of its groups.

Flags are vLLM's where it has one. A value is checked by the same models that the processes read
their configuration with (protocol/config.py), so that a key means the same wherever it stands.
"""

import argparse
import importlib.util
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from coordinator.autoscale_options import Impossible, check_sizes
from protocol.autoscaling import AutoscalingOptions, Workers
from protocol.config import (
    EngineConfig,
    PoolOptions,
    ServingOptions,
    SleepIdle,
    SleepLevel,
)
from protocol.reasoning import ReasoningFormat, named_format

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kKmMgGtT])(i?)[bB]?)?")
_SPECULATIVE_EXAMPLE = '{"method": "ngram", "num_speculative_tokens": 4}'
_JSON_EXAMPLES = {
    "speculative_config": _SPECULATIVE_EXAMPLE,
    "default_chat_template_kwargs": '{"enable_thinking": false}',
    "override_generation_config": '{"temperature": 0.6, "top_p": 0.95}',
}
_PARSERS = (
    "how the model writes calls: hermes, llama3_json, mistral, deepseek, pythonic, or"
    ' generic:{"start": "<call>", "end": "</call>"}'
)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


class OptionError(Exception):
    """A flag, a key or a value that cannot be; the text is one line that names it."""


def _number(value: Any) -> Any:
    """Flags are text, which a choice of numbers does not take."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


class GroupOptions(EngineConfig, ServingOptions, AutoscalingOptions):
    """A group as the operator describes it.

    model: folder, GGUF file or hub id; None: the default model.
    workers: None: one for each GPU, one on a CPU.
    sleep_idle_seconds, sleep_idle_level: see protocol.config.GroupConfig.
    chat_template: a file's path, or the template itself.
    reasoning_parser: a format's name, or its tags as a JSON object.
    generation_config: where sampling defaults come from: "auto" the model, "vllm" nowhere, or a
        folder with generation_config.json.
    override_generation_config: goes before those.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")] = "default"
    model: str | None = None
    served_model_name: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    workers: Workers | None = None
    sleep_idle_seconds: SleepIdle = None
    sleep_idle_level: Annotated[SleepLevel, BeforeValidator(_number)] = 1
    chat_template: str | None = None
    reasoning_parser: Annotated[ReasoningFormat | None, BeforeValidator(named_format)] = None
    generation_config: str = "auto"
    override_generation_config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _unlike_frontends(cls, value: str) -> str:
        if value == "frontend":  # its workers' ids would be those of frontends
            raise ValueError("is what frontends are called")
        return value

    @field_validator("served_model_name", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator(
        "kv_cache_bytes",
        "max_model_len",
        "max_num_batched_tokens",
        "max_queue_tokens",
        mode="before",
    )
    @classmethod
    def _with_unit(cls, value: Any) -> Any:
        return parse_size(value) if isinstance(value, str) else value

    @field_validator(*_JSON_EXAMPLES, mode="before")
    @classmethod
    def _from_json(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            example = _JSON_EXAMPLES[info.field_name or ""]
            raise ValueError(f"must be a JSON object such as {example}")
        return parsed

    def engine_config(self) -> EngineConfig:
        names = set(EngineConfig.model_fields)
        return EngineConfig.model_validate(self.model_dump(include=names))

    def serving_options(self) -> ServingOptions:
        names = set(ServingOptions.model_fields)
        return ServingOptions.model_validate(self.model_dump(include=names))


def parse_size(text: str) -> int:
    """ "4096", "1k" (1000), "1Ki" (1024), "1.5GiB"; ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a number or a size such as 4096, 8k or 2GiB: {text!r}")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** _POWERS.get((unit or "").lower(), 0))


def parse(argv: Sequence[str]) -> tuple[PoolOptions, list[GroupOptions], Path | None]:
    """The options of `headrace serve`: pool, groups, and the run directory if one is given.

    OptionError for whatever is wrong with them; SystemExit(0) for --help.
    """
    given = vars(_parser().parse_args(argv))
    config_file = given.pop("config", None)
    run_dir = given.pop("run_dir", None)
    file = _read(Path(config_file)) if config_file else {}
    group_flags = {key: value for key, value in given.items() if key in GroupOptions.model_fields}
    pool_flags = {key: value for key, value in given.items() if key not in group_flags}
    tables = file.pop("group", None)
    if tables is not None and group_flags:
        raise OptionError(f"{_flag(next(iter(group_flags)))}: belongs into a [[group]] of --config")
    groups = _groups(tables, group_flags)
    pool = _validate(PoolOptions, file | pool_flags, "" if file else "--")
    if pool.uds is not None and {"host", "port"} & (file | pool_flags).keys():
        raise OptionError("--uds: excludes --host and --port")
    _check_extras(pool)
    _check_autoscaling(groups, pool.wake_on_demand, is_file=tables is not None)
    return pool, groups, None if run_dir is None else Path(run_dir)


def _check_autoscaling(groups: list[GroupOptions], wakes: bool, is_file: bool) -> None:
    for number, group in enumerate(groups):
        try:
            check_sizes(group, group.workers, wakes)
        except Impossible as error:
            name = f"group {number}: {error.key}" if is_file else _flag(error.key)
            raise OptionError(f"{name}: {error}") from error


def _check_extras(pool: PoolOptions) -> None:
    """What frontends would otherwise miss with the first request that needs it."""
    is_postgresql = (pool.response_store_url or "").startswith("postgresql")
    has_servers = any(name != "demo" for name in pool.tool_server)
    for flag, is_needed, package, extra in (
        ("--response-store-url", is_postgresql, "psycopg", "postgresql"),
        ("--tool-server", has_servers, "mcp", "mcp"),
    ):
        if is_needed and importlib.util.find_spec(package) is None:
            raise OptionError(f"{flag}: needs the package {package}: install headrace[{extra}]")


def _groups(tables: Any, flags: dict[str, Any]) -> list[GroupOptions]:
    if tables is None:
        return [_validate(GroupOptions, flags, "--")]
    if not isinstance(tables, list) or not tables:
        raise OptionError("group: must be one or several [[group]] tables")
    groups = [
        _validate(GroupOptions, table, f"group {number}: ") for number, table in enumerate(tables)
    ]
    names = [group.name for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"group: two groups are called {name!r}")
    return groups


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise OptionError(f"--config: cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"--config: {path} is not TOML: {error}") from error


def _validate(model: type[Any], values: Any, prefix: str) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, *inner = [str(part) for part in first["loc"]] or ["config"]
        name = ": ".join([_flag(key) if prefix == "--" else f"{prefix}{key}", *inner])
        raise OptionError(f"{name}: {first['msg']}") from error


def _flag(key: str) -> str:
    return _FLAGS.get(key, "--" + key.replace("_", "-"))


# Where a flag is not called as its key is.
_FLAGS = {
    "kv_cache_bytes": "--kv-cache-memory-bytes",
    "memory_utilization": "--gpu-memory-utilization",
    "shutdown_timeout_s": "--shutdown-timeout",
    "stall_timeout_s": "--stall-timeout",
    "request_timeout_s": "--request-timeout",
    "start_timeout_s": "--start-timeout",
    "wake_timeout_s": "--wake-timeout",
    "log_stats_interval_s": "--log-stats-interval",
    "scale_up_window_s": "--scale-up-window",
    "scale_down_window_s": "--scale-down-window",
    "response_store_max_age_s": "--response-store-max-age",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="headrace serve",
        description="Serve language models over HTTP from a pool of workers.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_pool_flags(parser)
    _add_log_flags(parser)
    _add_group_flags(parser)
    _add_autoscaling_flags(parser)
    _add_answer_flags(parser)
    return parser


def _add_pool_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the pool").add_argument
    add("--config", metavar="FILE.toml", help="pool and groups from a file; flags go before it")
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", help="port to listen on, 0 for any (8000)")
    add("--uds", metavar="PATH", help="listen on a Unix socket instead")
    add("--frontends", "--api-server-count", dest="frontends", help="HTTP processes (2)")
    add("--root-path", help="prefix under which a proxy serves this server")
    add("--metrics-prefix", help="of metric names (headrace:); vllm for dashboards of vLLM")
    add("--max-body-bytes", help="largest request body (8388608)")
    add("--enable-tokenizer-info", action="store_true", help="serve /tokenizer_info")
    add("--shutdown-timeout", dest="shutdown_timeout_s", help="seconds to finish requests (30)")
    add(
        "--request-timeout",
        dest="request_timeout_s",
        metavar="S",
        help="seconds after which a request that is not answered is ended (never)",
    )
    add("--max-replays", help="of a request whose workers fail (3)")
    add("--stall-timeout", dest="stall_timeout_s", help="seconds without a step (10)")
    add("--start-timeout", dest="start_timeout_s", help="seconds until a worker is ready (600)")
    add("--warm-starts", action=argparse.BooleanOptionalAction, help="fork workers (on)")
    add(
        "--wake-on-demand",
        action=argparse.BooleanOptionalAction,
        help="requests wake a pool that sleeps (on)",
    )
    add("--wake-timeout", dest="wake_timeout_s", help="seconds that they wait for it (120)")
    add(
        "--reject-while-scaling",
        action="store_true",
        help="503 for requests while workers are added or removed",
    )
    add("--enable-admin", action="store_true", help="serve /sleep, /wake_up and such to everybody")
    add("--profile-dir", metavar="FOLDER", help="where /start_profile has traces written (nowhere)")
    add("--profile-max-seconds", metavar="S", help="after which a profile ends by itself (60)")
    add(
        "--response-store-url", metavar="URL", help="of /v1/responses (a file in the run directory)"
    )
    add(
        "--response-store-max-age",
        dest="response_store_max_age_s",
        metavar="S",
        help="seconds that responses are kept (2592000)",
    )
    add("--response-store-max-count", metavar="N", help="responses that are kept (10000)")
    add("--tool-server", help="tools that responses may use: demo, or host:port,... of MCP servers")
    add("--log-level", help="debug, info, warning or error (info)")
    add("--run-dir", help="for sockets and metrics (a new temporary folder)")


def _add_log_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is logged").add_argument
    add("--disable-log-stats", action=argparse.BooleanOptionalAction, help="throughput (logged)")
    add(
        "--log-stats-interval",
        dest="log_stats_interval_s",
        metavar="S",
        help="seconds between its lines while there is work (10)",
    )
    add("--enable-log-requests", action=argparse.BooleanOptionalAction, help="prompts (off)")
    add("--enable-log-outputs", action="store_true", help="texts too")
    add("--max-log-len", help="characters or token ids of each (all)")


def _add_answer_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("chats and answers").add_argument
    add("--chat-template", help="file with a Jinja template, or the template")
    add("--chat-template-content-format", help="text parts: auto, string or openai (auto)")
    add("--default-chat-template-kwargs", metavar="JSON", help="what templates get")
    add(
        "--trust-request-chat-template",
        action=argparse.BooleanOptionalAction,
        help="run templates that requests bring (off)",
    )
    add("--response-role", help="whose messages the answers are (assistant)")
    add("--max-logprobs", help="that a request may ask for, -1 for all (20)")
    add("--generation-config", help="sampling defaults: auto, vllm (none) or a folder (auto)")
    add("--override-generation-config", metavar="JSON", help="goes before those")
    add(
        "--return-tokens-as-token-ids", action="store_true", help='tokens of logprobs: "token_id:5"'
    )
    add(
        "--enable-prompt-tokens-details",
        action=argparse.BooleanOptionalAction,
        help="cached tokens in the usage (on)",
    )
    add("--enable-force-include-usage", action="store_true", help="usage at the end of all streams")


def _add_autoscaling_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how many workers it has").add_argument
    add("--min-workers", help="with a changing load; 0: none without requests (1)")
    add("--max-workers", help="at most (what --workers says)")
    add("--scale-target-requests", metavar="N", help="in each worker (0.6 of --max-num-seqs)")
    add("--scale-target-tokens", metavar="N", help="of prompts that wait in each (any number)")
    add(
        "--scale-up-window",
        dest="scale_up_window_s",
        metavar="S",
        help="seconds for which more must be needed (10)",
    )
    add(
        "--scale-down-window",
        dest="scale_down_window_s",
        metavar="S",
        help="seconds for which fewer must do (300)",
    )


def _add_group_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model").add_argument
    add("--model", help="folder, GGUF file or hub id (SmolLM2-135M-Instruct)")
    add("--served-model-name", nargs="+", help="names that requests may use; the first is shown")
    add("--reasoning-parser", help="deepseek_r1, qwen3, or a JSON object with start and end (none)")
    add("--enable-auto-tool-choice", action="store_true", help="let models decide to call tools")
    add("--tool-call-parser", metavar="NAME", help=_PARSERS)
    add("--tool-parser-plugin", metavar="FILE.py", help="a file that registers further parsers")
    add("--exclude-tools-when-tool-choice-none", action="store_true", help="from prompts, that is")
    add("--workers", "--data-parallel-size", dest="workers", help="(one per GPU, one on a CPU)")
    add(
        "--sleep-idle-seconds",
        metavar="S",
        help="a worker without requests for so long sleeps (never)",
    )
    add("--sleep-idle-level", help="1: its cache goes, 2: its weights, too (1)")
    add("--cpu-kernels", choices=["auto", "native", "torch"], help="what runs it on a CPU (auto)")
    add("--threads", help="CPU threads of each worker (the CPUs shared out)")
    add("--device", help="auto, cpu or cuda (auto)")
    add("--dtype", help="auto, float32, bfloat16 or float16 (auto)")
    add("--quantization", "-q", dest="quantization", help="int8 or int8_dynamic, on a CPU (none)")
    add("--max-model-len", help="tokens of prompt and output (the model's)")
    add("--max-num-seqs", help="requests in a batch (128)")
    add("--max-queue-requests", help="that may wait in each worker; more get 429 (any number)")
    add("--max-queue-tokens", help="prompt tokens that may wait in each worker (any number)")
    add("--max-num-batched-tokens", help="tokens in an engine step (CPU: 512, GPU: 8192)")
    add("--kv-cache-memory-bytes", dest="kv_cache_bytes", help="per worker (from free memory)")
    add("--gpu-memory-utilization", dest="memory_utilization", help="share of a GPU (0.9)")
    add("--block-size", help="tokens in a cache block (16)")
    add("--enable-prefix-caching", action=argparse.BooleanOptionalAction, help="(on)")
    add("--enforce-eager", action="store_true", help="no CUDA graphs")
    add(
        "--speculative-config",
        metavar="JSON",
        help=f"guess tokens by n-grams of the text: {_SPECULATIVE_EXAMPLE} (off)",
    )
    add("--seed", help="for requests that bring none (unpredictable)")
    add("--engine", help=argparse.SUPPRESS)
    add("--fake-step-s", help=argparse.SUPPRESS)
