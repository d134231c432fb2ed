"""The options of a group, as the operator gives them by flags or in a file."""

import contextlib
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from headrace.protocol.autoscaling import AutoscalingOptions, Workers
from headrace.protocol.calls import SleepLevel
from headrace.protocol.config import (
    CpuWeight,
    EngineConfig,
    Positive,
    ServingOptions,
    SleepIdle,
)
from headrace.protocol.reasoning import ReasoningFormat, parse_format

_SIZE = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)\s*(?:([kKmMgGtT])(i?)([bB]?))?")
_JSON_EXAMPLES = {
    "speculative_config": '{"method": "ngram", "num_speculative_tokens": 4}',
    "default_chat_template_kwargs": '{"enable_thinking": false}',
    "override_generation_config": '{"temperature": 0.6, "top_p": 0.95}',
    "hf_overrides": '{"rope_parameters": {"rope_type": "linear", "factor": 2.0}}',
    "pooler_config": '{"enable_chunked_processing": true, "max_embed_len": 8192}',
    "reasoning_effort_map": '{"xhigh": "high"}',
}
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
# The older way to say what a model is for: its runner, and what it is converted for.
_TASKS: dict[str, tuple[str, str]] = {
    "generate": ("generate", "none"),
    "embed": ("pooling", "embed"),
    "embedding": ("pooling", "embed"),
    "classify": ("pooling", "classify"),
    "score": ("pooling", "classify"),
}
# Other names of the same values.
_SYNONYMS = {
    "dtype": {"half": "float16", "float": "float32"},
    "kv_cache_dtype": {
        "bf16": "bfloat16",
        "fp8_e4m3": "fp8",
        "fp8_per_token_head": "fp8",
        "int8_per_token_head": "int8",
    },
}


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
    task: Literal["auto", "generate", "embed", "embedding", "classify", "score"] = Field(
        "auto", description="the older way to say --runner and --convert"
    )
    workers: Workers | None = Field(
        None, description="engine processes, each with a replica of the model"
    )
    cpu_weight: CpuWeight | None = Field(
        None,
        description=(
            "what of the cores the group's workers get, against other groups' weights, where all "
            "are busy, as Linux's niceness"
        ),
    )
    revision: str | None = Field(None, description="branch, tag or commit of a model from the hub")
    tokenizer: str | None = Field(
        None,
        description="folder or hub id with another tokenizer, and perhaps template",
    )
    tokenizer_revision: str | None = Field(
        None, description="branch, tag or commit of a tokenizer from the hub"
    )
    download_dir: Path | None = Field(
        None, description="folder for what is downloaded from the hub"
    )
    hf_token: str | bool | None = Field(
        None,
        repr=False,
        description="token for the hub; other users of the machine see it, so prefer HF_TOKEN",
    )
    hf_overrides: dict[str, Any] = Field(
        default_factory=dict, description="values that replace those of the model's config.json"
    )
    max_num_queued_reqs: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=(
            "requests that may run or wait in all workers together, an equal share in each; more "
            "get 429 with Retry-After"
        ),
    )
    max_num_queued_tokens: Positive | None = Field(
        None,
        description=(
            "prompt tokens that may wait in all workers together, an equal share in each; more get "
            "429 with Retry-After"
        ),
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
    allow_pickle_weights: bool = Field(
        False,
        description=(
            "convert pickled weights (.bin) where there are no safetensors, read as tensors alone"
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
        values = (value,) if isinstance(value, str) else value
        return split_list(values) if isinstance(values, list | tuple) else value

    @field_validator("lora_modules", mode="before")
    @classmethod
    def _lora_modules(cls, value: object) -> object:
        if not isinstance(value, str | dict | list | tuple):
            return value
        values = value if isinstance(value, list | tuple) else (value,)
        each = [part for item in values for part in json_list(item)]
        return tuple(_lora_module(part) for part in each if part != "")

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
        "max_num_queued_tokens",
        mode="before",
    )
    @classmethod
    def _with_unit(cls, value: object, info: ValidationInfo) -> object:
        if info.field_name == "max_model_len" and str(value).lower() in ("auto", "-1"):
            return None
        return parse_size(value) if isinstance(value, str) else value

    @field_validator(*_SYNONYMS, mode="before")
    @classmethod
    def _other_names(cls, value: object, info: ValidationInfo) -> object:
        names = _SYNONYMS[info.field_name or ""]
        return names.get(value, value) if isinstance(value, str) else value

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
        values = self.model_dump(include=set(EngineConfig.model_fields))
        if self.task != "auto":
            meant = dict(zip(("runner", "convert"), _TASKS[self.task], strict=True))
            values |= {key: value for key, value in meant.items() if values[key] == "auto"}
        return EngineConfig.model_validate(values)

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
        shown = value[:100]
        raise ValueError(f"must be name=path, or a JSON object with name and path: {shown!r}")
    return {"name": name, "path": path}


def json_list(value: object) -> Sequence[object]:
    """Return the elements of a list that is written as JSON; anything else as the only one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return tuple(json.loads(value))
    return (value,)


def split_list(values: Sequence[object]) -> tuple[object, ...]:
    """Return the elements of a list whose own may be lists: JSON, or separated by commas."""
    found: list[object] = []
    for value in (part for each in values for part in json_list(each)):
        parts = value.split(",") if isinstance(value, str) else [value]
        found += [part.strip() if isinstance(part, str) else part for part in parts]
    return tuple(found)


def parse_size(text: str) -> int:
    """Parse "4096", "1k" (1000), "1K" and "1Ki" (1024), "1.5GiB", "2GB" (2,000,000,000).

    Raises ValueError for anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a number or a size such as 4096, 8k or 2GiB: {text[:100]!r}")
    number, unit, binary, is_bytes = match.groups()
    base = 1024 if binary or (unit and unit.isupper() and not is_bytes) else 1000
    return int(Fraction(number) * base ** _POWERS.get((unit or "").lower(), 0))
