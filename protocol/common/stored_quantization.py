"""What a folder's configuration says about weights that are quantized in its safetensors."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INSTEAD = (
    "use a GGUF file of the model, a checkpoint in GPTQ, AWQ or compressed-tensors, "
    "or the original weights with --quantization q4_0 or q8_0"
)
_SQUARES = (128, 128)
_GPTQ_BITS = (2, 3, 4, 8)
_GPTQ_LAYOUTS = ("gptq", "gptq_v2")
# Formats of compressed-tensors whose layers are told apart by their tensors.
_COMPRESSED = (
    "pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision",
    "dense",
)  # fmt: skip
# Files beside a configuration that says nothing: (name, method).
_OTHER_FILES = (
    ("quantize_config.json", "gptq"),
    ("quant_config.json", "awq"),
    ("hf_quant_config.json", "modelopt"),
)
QUANTIZATION_FILES = ("config.json", *(name for name, _ in _OTHER_FILES))
_KEYS = ("quantization_config", "compression_config")
# Of ModelOpt: a scale for each weight, or for each of its outputs.
_MODELOPT = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")
# Parts of a configuration that are not of the text.
_OTHER_PARTS = ("vision", "image", "visual", "audio", "speech", "video")
_MAX_DEPTH = 3


class StoredQuantizationError(Exception):
    """Weights in a folder cannot be read. The text is one line that says what to use instead."""


@dataclass(frozen=True, slots=True)
class StoredQuantization:
    """How weights are quantized in a folder's safetensors.

    method: "gptq", "awq", "compressed-tensors", "fp8", "fbgemm-fp8", "modelopt" or "mxfp4".
    zeros_less_one: whether zero points are stored less one, as in GPTQ's first version.
    group_size: inputs that have a scale in common, if it is said; 0: not, or all.
    squares: outputs and inputs that have a scale in common, of 8-bit floats.
    """

    method: str
    zeros_less_one: bool = False
    group_size: int = 0
    squares: tuple[int, int] = _SQUARES


def stored_quantization(folder: Path) -> StoredQuantization | None:
    """Read how a folder's weights are quantized; None if they are not, or nothing can be read.

    Raises StoredQuantizationError if they are in a way that cannot be served.
    """
    config = _json_object(folder / "config.json")
    for place in _text_parts(config, _MAX_DEPTH):
        for key in _KEYS:
            if place.get(key) is None:
                continue
            if not isinstance(place[key], dict) or not place[key]:
                raise StoredQuantizationError(
                    f"{folder} cannot be loaded: its {key} says of no method how weights are stored"
                )
            return _checked(folder, place[key])
    for name, method in _OTHER_FILES:
        if found := _json_object(folder / name):
            inner = found.get("quantization")  # ModelOpt's
            found = inner if method == "modelopt" and isinstance(inner, dict) else found
            return _checked(folder, {"quant_method": method, **found})
    return None


def _text_parts(config: dict[str, Any], depth: int) -> Iterator[dict[str, Any]]:
    """Yield a configuration, and those within it that are not of pictures or sounds."""
    yield config
    for key, value in config.items() if depth else ():
        is_other = any(word in key for word in _OTHER_PARTS)
        if isinstance(value, dict) and key.endswith("config") and not is_other and key not in _KEYS:
            yield from _text_parts(value, depth - 1)


def _checked(folder: Path, found: Mapping[str, Any]) -> StoredQuantization | None:
    method = str(found.get("quant_method") or "").lower().replace("_", "-")
    if not method and any(found.get(key) for key in ("load_in_4bit", "load_in_8bit")):
        method = "bitsandbytes"
    check = _CHECKS.get(method)
    reason = f"has weights quantized by {method or 'an unnamed method'}" if check is None else ""
    if check is not None:
        reason = check(found)
    if reason:
        raise StoredQuantizationError(f"{folder}: {reason}, which cannot be read: {_INSTEAD}")
    layout = found.get("checkpoint_format", "gptq")
    size, squares = found.get("group_size"), _squares(found)
    return StoredQuantization(
        method,
        zeros_less_one=layout != "gptq_v2",
        group_size=size if isinstance(size, int) and size > 0 else 0,
        squares=(squares[0], squares[1]) if len(squares) == 2 else _SQUARES,
    )


def _squares(found: Mapping[str, Any]) -> list[int]:
    """Return the sizes of squares that have a scale in common; [] if nothing is said."""
    weights = [_mapping(group.get("weights")) for group in _config_groups(found)]
    each = [one.get("block_structure") for one in weights]
    sizes = next(filter(None, (found.get("weight_block_size"), *each)), None)
    whole = sizes if isinstance(sizes, list) else []
    return [size for size in whole if isinstance(size, int) and size > 0]


def _config_groups(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what compressed-tensors says of each group of layers."""
    return [_mapping(group) for group in _mapping(found.get("config_groups")).values()]


def _mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for other values, which strangers' files may have."""
    return value if isinstance(value, dict) else {}


def _check_gptq(found: Mapping[str, Any]) -> str:
    layout = found.get("checkpoint_format") or "gptq"
    if layout not in _GPTQ_LAYOUTS:
        return f"has GPTQ weights in the layout {layout}"
    bits = found.get("bits")
    return "" if bits in _GPTQ_BITS else f"has GPTQ weights of {bits} bits"


def _check_awq(found: Mapping[str, Any]) -> str:
    version = str(found.get("version") or "gemm").lower()
    bits = found.get("bits", found.get("w_bit", 4))
    if version != "gemm":
        return f"has AWQ weights in the layout {version}"
    return "" if bits == 4 else f"has AWQ weights of {bits} bits"


def _check_compressed(found: Mapping[str, Any]) -> str:
    if found.get("transform_config"):
        return "has compressed-tensors weights with transforms of their inputs"
    sparsity = _mapping(found.get("sparsity_config")).get("format", "dense")
    each = [group.get("format") for group in _config_groups(found)]
    for layout in (sparsity, found.get("format"), *each):
        if layout is not None and layout not in _COMPRESSED:
            return f"has compressed-tensors weights in the format {layout}"
    return ""


def _check_modelopt(found: Mapping[str, Any]) -> str:
    algorithm = found.get("quant_algo")
    if algorithm in _MODELOPT:
        return ""
    return f"has ModelOpt weights in the format {algorithm or 'of each layer'}"


_CHECKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "gptq": _check_gptq,
    "awq": _check_awq,
    "compressed-tensors": _check_compressed,
    "fp8": lambda _: "",
    "fbgemm-fp8": lambda _: "",
    "modelopt": _check_modelopt,
    "mxfp4": lambda _: "",
}


def _json_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
