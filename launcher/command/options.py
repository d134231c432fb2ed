"""The options of a pool and of its groups, from flags and a TOML file.

Flags have vLLM's names where it has such flags. Values are checked by the same models with which
the processes read their configuration (protocol/config.py), so that a key means the same in both.
"""

import contextlib
import importlib.util
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from headrace.launcher.command.autoscale_options import InvalidSizes, check_sizes
from headrace.launcher.command.flag_help import BadFlag, Fields, new_parser
from headrace.launcher.command.flags import flag_of
from headrace.protocol.autoscaling import AutoscalingOptions, Workers
from headrace.protocol.calls import SleepLevel
from headrace.protocol.config import (
    EngineConfig,
    PoolOptions,
    ServingOptions,
    SleepIdle,
)
from headrace.protocol.reasoning import ReasoningFormat, parse_format

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kKmMgGtT])(i?)[bB]?)?")
_JSON_EXAMPLES = {
    "speculative_config": '{"method": "ngram", "num_speculative_tokens": 4}',
    "default_chat_template_kwargs": '{"enable_thinking": false}',
    "override_generation_config": '{"temperature": 0.6, "top_p": 0.95}',
}
Model = TypeVar("Model", bound=BaseModel)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


class OptionError(Exception):
    """A flag, a key or a value is invalid. The text is one line that names it."""


def _number(value: object) -> object:
    """Convert text from a flag, which a Literal of numbers does not accept."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


class LoraModule(BaseModel):
    """A LoRA adapter that is served from the start.

    path: a folder, or a hub id. base_model_name: without effect; the model is the group's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=256)]
    path: Annotated[str, Field(min_length=1)]
    base_model_name: str | None = None


class GroupOptions(EngineConfig, ServingOptions, AutoscalingOptions):
    """A group as the operator describes it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")] = Field(
        "default", description="name of the group"
    )
    model: str | None = Field(
        None,
        description=(
            "folder in Hugging Face layout, GGUF file, or hub id (org/name, org/name@revision)"
        ),
    )
    served_model_name: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="names of the model in requests; answers have the first"
    )
    workers: Workers | None = Field(
        None, description="engine processes, each with a replica of the model"
    )
    sleep_idle_seconds: SleepIdle = Field(
        None, description="seconds without requests after which a worker sleeps"
    )
    sleep_idle_level: Annotated[SleepLevel, BeforeValidator(_number)] = Field(
        1, description="memory that such a worker gives back: 1: caches, 2: weights, too"
    )
    lora_modules: tuple[LoraModule, ...] = Field(
        (), description="LoRA adapters served from the start, each a folder or a hub id"
    )
    chat_template: str | None = Field(
        None, description="file with a Jinja template, or the template itself"
    )
    reasoning_parser: Annotated[
        ReasoningFormat | Literal["auto"] | None, BeforeValidator(parse_format)
    ] = Field(
        "auto",
        description=(
            "how reasoning is separated from content: auto (as the chat template tells), none, "
            "deepseek_r1, qwen3, ... (docs/reasoning.md), or a JSON object such as "
            '{"start": "<think>", "end": "</think>"}'
        ),
    )
    generation_config: str = Field(
        "auto",
        description=(
            "source of default sampling parameters: auto (the model), vllm (none), or a folder "
            "with generation_config.json"
        ),
    )
    override_generation_config: dict[str, Any] = Field(
        default_factory=dict,
        description="default sampling parameters that take precedence over that source",
    )

    @field_validator("name")
    @classmethod
    def _unlike_frontends(cls, value: str) -> str:
        if value == "frontend":  # its workers' ids would be those of frontends
            raise ValueError("is what frontends are called")
        return value

    @field_validator("served_model_name", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("lora_modules", mode="before")
    @classmethod
    def _lora_modules(cls, value: object) -> object:
        return tuple(map(_lora_module, value)) if isinstance(value, list | tuple) else value

    @field_validator("lora_modules")
    @classmethod
    def _enabled(
        cls, value: tuple[LoraModule, ...], info: ValidationInfo
    ) -> tuple[LoraModule, ...]:
        if value and not info.data.get("enable_lora"):
            raise ValueError("needs enable_lora")
        return value

    @field_validator("max_lora_rank", mode="before")
    @classmethod
    def _rank(cls, value: object) -> object:
        return _number(value)

    @field_validator(
        "kv_cache_bytes",
        "max_model_len",
        "max_num_batched_tokens",
        "max_queue_tokens",
        mode="before",
    )
    @classmethod
    def _with_unit(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str) else value

    @field_validator(*_JSON_EXAMPLES, mode="before")
    @classmethod
    def _from_json(cls, value: object, info: ValidationInfo) -> object:
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
        """Return the options of the engine."""
        names = set(EngineConfig.model_fields)
        return EngineConfig.model_validate(self.model_dump(include=names))

    def serving_options(self) -> ServingOptions:
        """Return the options of the frontends."""
        names = set(ServingOptions.model_fields)
        return ServingOptions.model_validate(self.model_dump(include=names))


def _lora_module(value: object) -> object:
    """Parse "name=path", or a JSON object."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    name, _, path = value.partition("=")
    if not name or not path:
        raise ValueError(f"must be name=path, or a JSON object with name and path: {value!r}")
    return {"name": name, "path": path}


def parse_size(text: str) -> int:
    """Parse "4096", "1k" (1000), "1Ki" (1024), "1.5GiB". Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a number or a size such as 4096, 8k or 2GiB: {text!r}")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** _POWERS.get((unit or "").lower(), 0))


def option_fields() -> Fields:
    """Return the fields of all options by their keys."""
    return PoolOptions.model_fields | GroupOptions.model_fields


def parse(argv: Sequence[str]) -> tuple[PoolOptions, list[GroupOptions], Path | None]:
    """Return the options of `headrace serve`: pool, groups, and the run directory if one is given.

    Raises OptionError if they are invalid, SystemExit(0) for --help.
    """
    try:
        given = vars(new_parser(option_fields()).parse_args(argv))
    except BadFlag as error:
        raise OptionError(str(error)) from error
    config_file = given.pop("config", None)
    run_dir = given.pop("run_dir", None)
    file = _read(Path(config_file)) if config_file else {}
    group_flags = {key: value for key, value in given.items() if key in GroupOptions.model_fields}
    pool_flags = {key: value for key, value in given.items() if key not in group_flags}
    tables = file.pop("group", None)
    if tables is not None and group_flags:
        raise OptionError(f"{flag_of(next(iter(group_flags)))}: belongs in a [[group]] of --config")
    groups = _groups(tables, group_flags)
    pool = _validate(PoolOptions, file | pool_flags, "" if file else "--")
    if pool.uds is not None and {"host", "port"} & (file | pool_flags).keys():
        raise OptionError("--uds: excludes --host and --port")
    _check_extras(pool)
    _check_autoscaling(groups, pool.wake_on_demand, is_file=tables is not None)
    return pool, groups, None if run_dir is None else Path(run_dir)


def _check_autoscaling(groups: list[GroupOptions], wake_on_demand: bool, is_file: bool) -> None:
    for number, group in enumerate(groups):
        try:
            check_sizes(group, group.workers, wake_on_demand)
        except InvalidSizes as error:
            name = f"group {number}: {error.key}" if is_file else flag_of(error.key)
            raise OptionError(f"{name}: {error}") from error


def _check_extras(pool: PoolOptions) -> None:
    """Check for packages that frontends would miss only at the first request that needs them."""
    is_postgresql = (pool.response_store_url or "").startswith("postgresql")
    has_servers = any(name != "demo" for name in pool.tool_server)
    for flag, is_needed, package, extra in (
        ("--response-store-url", is_postgresql, "psycopg", "postgresql"),
        ("--tool-server", has_servers, "mcp", "mcp"),
    ):
        if is_needed and importlib.util.find_spec(package) is None:
            raise OptionError(f"{flag}: needs the package {package}: install headrace[{extra}]")


def _groups(tables: object, flags: dict[str, Any]) -> list[GroupOptions]:
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


def _validate(model: type[Model], values: object, prefix: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # A value of several types names the type, too.
        loc = [str(part) for part in first["loc"] if part != ReasoningFormat.__name__]
        key, *inner = loc or ["config"]
        name = ": ".join([flag_of(key) if prefix == "--" else f"{prefix}{key}", *inner])
        raise OptionError(f"{name}: {first['msg']}") from error
