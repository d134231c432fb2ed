"""Default sampling parameters of requests: those of the model's authors, or the operator's."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headrace.launcher.models.model_folder import ModelError, read_json_object

log = logging.getLogger("headrace.launcher")

FILE = "generation_config.json"
MAX_NEW_TOKENS = "max_new_tokens"
# The parameters that a file or an operator may set, with their least and greatest values.
_RANGES = {
    "temperature": (0.0, 1e4),
    "top_p": (1e-6, 1.0),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    MAX_NEW_TOKENS: (1, 2**31),
}
_WHOLE = ("top_k", MAX_NEW_TOKENS)
_OVERRIDE = "--override-generation-config"
_NOT_SAMPLED = ("eos_token_id", "do_sample")
_MAX_SHOWN = 80  # characters of a value in a warning


class _Unfit(Exception):
    """A value is no number, or out of its range; the text says which."""


def generation_defaults(
    model: Path,
    source: str,
    override: Mapping[str, Any],
    recommended: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Return sampling parameters by name.

    source: "auto": from the model's folder; "vllm": none; else a folder with the same file. A value
        out of its range is left out, with a warning.
    override: takes precedence over those; None leaves a parameter out.
    recommended: of the authors, elsewhere than in the folder; with "auto", where its file has none.

    Raises ModelError, which names the parameter, if one of the override is invalid.
    """
    defaults = _from_file(_file(model, source)) if source != "vllm" else {}
    if source == "auto":
        defaults = {**recommended, **defaults}
    for name, value in override.items():
        if name not in (*_RANGES, *_NOT_SAMPLED):
            raise ModelError(f"{_OVERRIDE}: {name} is unknown")
        if name not in _RANGES:
            continue
        if value is None:
            defaults.pop(name, None)
            continue
        try:
            defaults[name] = _checked(name, value)
        except _Unfit as error:
            raise ModelError(f"{_OVERRIDE}: {name} {error}") from error
    return defaults


def output_ceiling(
    source: str, override: Mapping[str, Any], defaults: Mapping[str, float]
) -> int | None:
    """Return how many tokens any output may have; None: as many as requests ask for.

    The operator's max_new_tokens is a limit of all outputs, the model's own only a default.
    """
    is_operators = source not in ("auto", "vllm") or override.get(MAX_NEW_TOKENS) is not None
    value = defaults.get(MAX_NEW_TOKENS) if is_operators else None
    return None if value is None else int(value)


def _file(model: Path, source: str) -> Path:
    if source == "auto":
        return model / FILE
    file = Path(source).expanduser() / FILE
    if not file.is_file():
        raise ModelError(f"--generation-config {source}: there is no {FILE}")
    return file


def _from_file(file: Path) -> dict[str, float]:
    """Return the authors' parameters; those of sampling not if they recommend greedy decoding."""
    generation = read_json_object(file)
    names = (MAX_NEW_TOKENS,) if generation.get("do_sample") is False else tuple(_RANGES)
    defaults = {}
    for name in names:
        value = generation.get(name)
        if value is None:
            continue
        try:
            defaults[name] = _checked(name, value)
        except _Unfit as error:
            shown = str(value)[:_MAX_SHOWN]
            log.warning("%s: %s %s and is left out: %r", file, name, error, shown)
    return defaults


def _checked(name: str, value: object) -> float:
    """Return a parameter's value. Raises _Unfit if it cannot be that."""
    is_bool = isinstance(value, bool)  # which is an int for Python
    if is_bool or not isinstance(value, int | float) or value != value or abs(value) == math.inf:
        raise _Unfit("is not a number")
    lowest, highest = _RANGES[name]
    if not lowest <= value <= highest:
        raise _Unfit(f"must be from {lowest} to {highest}")
    if name in _WHOLE and value != int(value):
        raise _Unfit("must be a whole number")
    return float(value)
