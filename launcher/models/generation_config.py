"""Default sampling parameters of requests: those of the model's authors, or the operator's."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.launcher.models.model_folder import ModelError, read_json_object

FILE = "generation_config.json"
SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
# The parameters that an operator may set, with their least and greatest values.
_OVERRIDES = {
    "temperature": (0.0, 1e4),
    "top_p": (1e-6, 1.0),
    "top_k": (-1, 2**31),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "max_new_tokens": (1, 2**31),
}
_OVERRIDE = "--override-generation-config"
_NOT_SAMPLED = ("eos_token_id", "do_sample")


def generation_defaults(model: Path, source: str, override: Mapping[str, Any]) -> dict[str, float]:
    """Return sampling parameters by name.

    source: "auto": from the model's folder; "vllm": none; else a folder with the same file.
    override: takes precedence over those.

    Raises ModelError, which names the parameter, if one is invalid.
    """
    defaults = _from_file(_file(model, source)) if source != "vllm" else {}
    for name, value in override.items():
        if name not in (*_OVERRIDES, *_NOT_SAMPLED):
            raise ModelError(f"{_OVERRIDE}: {name} is unknown")
        if name in _OVERRIDES:
            defaults[name] = _within(value, *_OVERRIDES[name], what=f"{_OVERRIDE}: {name}")
    return defaults


def _file(model: Path, source: str) -> Path:
    if source == "auto":
        return model / FILE
    file = Path(source).expanduser() / FILE
    if not file.is_file():
        raise ModelError(f"--generation-config {source}: there is no {FILE}")
    return file


def _from_file(file: Path) -> dict[str, float]:
    """Return the authors' sampling parameters; none if they recommend greedy decoding."""
    generation = read_json_object(file)
    if generation.get("do_sample") is False:
        return {}
    return {
        name: _number(generation[name], f"{file}: {name}")
        for name in SAMPLING_DEFAULTS
        if generation.get(name) is not None
    }


def _number(value: object, what: str) -> float:
    is_bool = isinstance(value, bool)  # which is an int for Python
    if is_bool or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"{what} is not a number")
    return float(value)


def _within(value: object, lowest: float, highest: float, *, what: str) -> float:
    number = _number(value, what)
    if not lowest <= number <= highest:
        raise ModelError(f"{what} must be from {lowest} to {highest}")
    return number
