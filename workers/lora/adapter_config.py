"""Read an adapter's adapter_config.json, as PEFT writes it. Does not import torch."""

import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from headrace.workers.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
_MAX_CONFIG_BYTES = 1024 * 1024
_MAX_ALPHA = 1e6
# Fields that, if set to anything, require more than two low-rank matrices for a linear layer.
_UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# Initial matrices that PEFT subtracts from the base model's weights: the adapter belongs to another
# base than this one.
_CHANGES_BASE = ("pissa", "pissa_niter_", "olora", "corda", "lora_ga")
# These make up for what quantizing the base has changed, and PEFT cannot convert them.
_QUANTIZES_BASE = "loftq"
_KEEPS_BASE = ("gaussian", "eva", "orthogonal", "mica")
_PLAIN_NAME = re.compile(r"[\w.-]*")
_QUANTIFIER = re.compile(r"[*+?{]")
_MAX_PATTERN = 200  # characters
_MAX_REGEXES = 8  # keys that are not plain names
_MAX_PATTERN_COST = 6

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The scales of an adapter's matrices.

    rank, alpha: of layers that no pattern matches.
    rank_pattern, alpha_pattern: values for layers whose name ends, after a dot, with a match of the
        key, a regular expression; the first match counts.
    uses_rslora: whether alpha is divided by the square root of the rank ("rank-stabilized",
        Kalajdzievski 2023) instead of the rank.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    uses_rslora: bool

    def rank_of(self, layer: str) -> int:
        return _lookup(self.rank_pattern, layer, self.rank)

    def scale_of(self, layer: str) -> float:
        """Return the factor of the product of a layer's two matrices."""
        rank = self.rank_of(layer)
        alpha = _lookup(self.alpha_pattern, layer, self.alpha)
        return alpha / math.sqrt(rank) if self.uses_rslora else alpha / rank


def read_config(folder: Path) -> dict[str, Any]:
    """Read the folder's adapter_config.json. Raises AdapterError if it is not a JSON object."""
    text = read_file(folder / CONFIG_FILE, _MAX_CONFIG_BYTES)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        _reject("is not JSON")
    if not isinstance(config, dict):
        _reject("is not a JSON object")
    return config


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a file. Raises AdapterError if it is missing, unreadable or larger than max_bytes."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise AdapterError(f"{path.name} is not a file")
        if info.st_size > max_bytes:
            raise AdapterError(f"{path.name} is larger than {max_bytes} bytes")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise AdapterError(f"the adapter has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path.name} cannot be read") from error
    if len(data) > max_bytes:
        raise AdapterError(f"{path.name} is larger than {max_bytes} bytes")
    return data


def parse_config(config: dict[str, Any], max_rank: int, takes_head: bool = False) -> AdapterConfig:
    """Parse the configuration. Raises AdapterError for unsupported settings and wrong types.

    takes_head: whether the adapter may bring modules in full: those of the model's head.
    """
    if config.get("peft_type") != "LORA":
        _reject(f"peft_type must be LORA, not {_quoted(config.get('peft_type'))}")
    for name in _UNSUPPORTED:
        if config.get(name) and not (takes_head and name == "modules_to_save"):
            _reject(f"{name} is not supported")
    if config.get("bias", "none") != "none":
        _reject("bias must be none")
    _check_initialization(config.get("init_lora_weights"))
    uses_rslora = config.get("use_rslora", False)
    if not isinstance(uses_rslora, bool):
        _reject("use_rslora must be true or false")
    ranks = _pattern(config, "rank_pattern")
    return AdapterConfig(
        rank=_rank("r", config.get("r"), max_rank),
        alpha=_alpha("lora_alpha", config.get("lora_alpha")),
        rank_pattern={key: _rank("rank_pattern", ranks[key], max_rank) for key in ranks},
        alpha_pattern={
            key: _alpha("alpha_pattern", value)
            for key, value in _pattern(config, "alpha_pattern").items()
        },
        uses_rslora=uses_rslora,
    )


def _check_initialization(value: Any) -> None:
    """Reject an adapter that was trained on a changed base, which its files do not hold.

    PEFT changes the base in the same way when it loads such an adapter: not always exactly (a
    randomized decomposition), and not at all where the change came from data. An adapter that it
    has converted while saving is a plain one.
    """
    if value is None or isinstance(value, bool):
        return
    name = value.lower() if isinstance(value, str) else ""
    if name in _KEEPS_BASE:
        return
    if name == _QUANTIZES_BASE:
        _reject(
            f"init_lora_weights {_quoted(value)} is not supported, since it belongs to quantized "
            "weights"
        )
    if name.startswith(_CHANGES_BASE):
        _reject(
            f"init_lora_weights {_quoted(value)} is not supported, since it changes the base "
            "model: save the adapter with path_initial_model_for_weight_conversion"
        )
    _reject(f"init_lora_weights {_quoted(value)} is unknown")


def _rank(name: str, value: Any, max_rank: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _reject(f"{name} must be a positive integer")
    if value > max_rank:
        _reject(f"{name} is {_quoted(value)}, which is more than max_lora_rank, {max_rank}")
    return value


def _alpha(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _MAX_ALPHA:  # also false for NaN
        _reject(f"{name} must be a number up to {_MAX_ALPHA:.0f}")
    return float(value)


def _pattern(config: dict[str, Any], name: str) -> dict[str, Any]:
    pattern = config.get(name) or {}
    if not isinstance(pattern, dict):
        _reject(f"{name} must be an object")
    if sum(not _PLAIN_NAME.fullmatch(key) for key in pattern) > _MAX_REGEXES:
        _reject(f"{name} has more than {_MAX_REGEXES} regular expressions")
    for key in pattern:
        _check_key(name, key)
    return pattern


def _check_key(name: str, key: str) -> None:
    """Reject a regular expression that could take too long: layer names need few quantifiers and
    alternatives."""
    cost = 2 * len(_QUANTIFIER.findall(key)) + key.count("|")
    is_nested = re.search(r"\)[*+?{]", key) is not None
    if len(key) > _MAX_PATTERN or cost > _MAX_PATTERN_COST or is_nested:
        _reject(f"{name} has a key that is too elaborate: {_quoted(key)}")
    try:
        re.compile(key)
        re.compile(_layer_regex(key))
    except (re.error, RecursionError):
        _reject(f"{name} has a key that is not a regular expression: {_quoted(key)}")


def _lookup(pattern: Mapping[str, _Value], layer: str, default: _Value) -> _Value:
    for key, value in pattern.items():
        if re.match(_layer_regex(key), layer):
            return value
    return default


def _layer_regex(key: str) -> str:
    return rf"(.*\.)?({key})$"


def _quoted(value: Any) -> str:
    """Shorten a value for an error text that is shown to clients."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _reject(reason: str) -> NoReturn:
    raise AdapterError(f"{CONFIG_FILE}: {reason}")
