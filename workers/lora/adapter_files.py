"""Read an adapter from a folder that PEFT wrote, or raise the reason why it cannot be used.

Only safetensors are read: a pickle is never opened.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from headrace.workers.errors import AdapterError
from headrace.workers.lora.adapter_config import AdapterConfig, parse_config, read_config, read_file
from headrace.workers.lora.head import split_head

WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLE_FILE = "adapter_model.bin"
# What PEFT adds to a layer's name; adapters saved in another way include their own, "default".
_NAME = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
# Parts of an adapter besides the matrices of layers, by what the names of their tensors hold.
_OTHER_PARTS = {
    "lora_magnitude_vector": "DoRA (lora_magnitude_vector)",
    "lora_embedding_": "a change of embeddings (lora_embedding)",
    "modules_to_save": "a retrained module (modules_to_save)",
    "trainable_tokens": "retrained tokens (trainable_tokens)",
    "lora_B.bias": "a bias (lora_B.bias)",
    "lora_B.default.bias": "a bias (lora_B.bias)",
}
# Names of the modules before and after a model's layers, in transformers' classes.
_EMBEDDINGS = ("embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "tok_embeddings")
_HEADS = ("lm_head", "embed_out", "output_layer", "score", "classifier")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_HEADER_BYTES = 16 * 1024 * 1024  # largest header of names and shapes


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A layer [inputs] → [outputs] that adapters may change. dtype: of the adapters' matrices."""

    inputs: int
    outputs: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class LoraMatrices:
    """The matrices of one layer; they add rows [n, inputs] @ down.T @ up to its output.

    down: [rank, inputs]. up: [rank, outputs], multiplied by the adapter's scale. (Hu et al. 2021,
    arXiv 2106.09685, call them A and B, with B transposed.)
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter in the host's memory. matrices: by the names of the layers that it changes.

    head: parameters of a classifier's head that replace the model's own, by their names.
    """

    matrices: Mapping[str, LoraMatrices]
    head: Mapping[str, Tensor] = field(default_factory=dict)


def read_adapter(
    folder: Path,
    layers: Mapping[str, LinearShape],
    max_rank: int,
    head: Mapping[str, Tensor] | None = None,
) -> Adapter:
    """Read the folder's adapter and check it against the layers of the model.

    head: the parameters of the model's head, which adapters may replace; None: they may not.

    Raises AdapterError if the folder has no adapter, if it is for another model, or if it changes
    what adapters cannot change here.
    """
    adapter_config = parse_config(read_config(folder), max_rank, takes_head=bool(head))
    tensors = _read_tensors(folder, layers, max_rank, head or {})
    parts = split_head(tensors, head, _NAME, _reject)
    matrices = _by_layer(parts.others)
    if not matrices and not parts.head_pairs:
        _reject("it has no LoRA matrices")
    names = _resolve(matrices, layers)
    return Adapter(
        {
            names[given]: _scaled_matrices(given, pair, layers[names[given]], adapter_config)
            for given, pair in matrices.items()
        },
        {**parts.head, **_merged(parts.head_pairs, head or {}, adapter_config)},
    )


def _merged(
    pairs: Mapping[str, Mapping[str, Tensor]],
    head: Mapping[str, Tensor],
    adapter_config: AdapterConfig,
) -> dict[str, Tensor]:
    """Return the weights of the head's layers with their matrices' products added."""
    weights = {}
    for layer, pair in pairs.items():
        weight = head[f"{layer}.weight"]
        shape = LinearShape(weight.shape[1], weight.shape[0], torch.float32)
        matrices = _scaled_matrices(layer, pair, shape, adapter_config)
        weights[f"{layer}.weight"] = weight + (matrices.up.T @ matrices.down).to(weight.dtype)
    return weights


def _read_tensors(
    folder: Path,
    layers: Mapping[str, LinearShape],
    max_rank: int,
    head: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    if not (folder / WEIGHTS_FILE).exists() and (folder / _PICKLE_FILE).exists():
        raise AdapterError(f"{_PICKLE_FILE} is pickle, which is not read: save as {WEIGHTS_FILE}")
    tensor_bytes = 4 * max_rank * sum(shape.inputs + shape.outputs for shape in layers.values())
    for parameter in head.values():  # itself, or matrices for it
        tensor_bytes += 4 * (parameter.numel() + max_rank * sum(parameter.shape))
    # Read, not mapped: if a mapped file were truncated, the process would be killed.
    data = read_file(folder / WEIGHTS_FILE, tensor_bytes + _HEADER_BYTES)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise AdapterError(f"{WEIGHTS_FILE} is not a safetensors file, or is damaged") from error


def _by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group the matrices "A" and "B" by layer, under the names that the file has."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        _check_part(name)
        match = _NAME.fullmatch(name)
        if match is None:
            _reject(f"{_quoted(name)} is not a LoRA matrix")
        if tensor.ndim != 2 or tensor.dtype not in _FLOATS:
            _reject(f"{_quoted(name)} is not a matrix of 16 or 32 bit floats")
        layer, which = match.groups()
        if layers.setdefault(layer, {}).setdefault(which, tensor) is not tensor:
            _reject(f"{_quoted(layer)} has two matrices {which}")
    for layer, matrices in layers.items():
        if len(matrices) != 2:
            _reject(f"{_quoted(layer)} has only one of its two matrices")
    return layers


def _check_part(name: str) -> None:
    """Reject a tensor of what adapters cannot change here, by its own name."""
    for mark, part in _OTHER_PARTS.items():
        if mark in name:
            _reject(f"{_quoted(name)}: {part} is not supported")
    for modules, what in ((_HEADS, "the output layer"), (_EMBEDDINGS, "embeddings")):
        module = next((part for part in name.split(".") if part in modules), None)
        if module is not None:
            _reject(f"an adapter on {module} is not supported: {what} cannot be changed")


def _resolve(given: Mapping[str, object], layers: Mapping[str, LinearShape]) -> dict[str, str]:
    """Map the file's layer names to the model's.

    An adapter trained on a model without its head has names without the prefix ("layers.0..." for
    "model.layers.0..."), so a suffix that only one layer has is accepted. One trained with a head
    that this model lacks has the prefix.
    """
    names = {name: name if name in layers else _with_end(name, layers) for name in given}
    if len(set(names.values())) != len(names):
        _reject("two names are of the same layer")
    return names


def _with_end(name: str, layers: Mapping[str, LinearShape]) -> str:
    without_prefix = name.partition(".")[2]
    if without_prefix in layers:
        return without_prefix
    matches = [layer for layer in layers if layer.endswith(f".{name}")]
    if len(matches) != 1:
        _reject(f"the model has no layer {_quoted(name)} that adapters can change")
    return matches[0]


def _scaled_matrices(
    name: str, matrices: Mapping[str, Tensor], shape: LinearShape, adapter_config: AdapterConfig
) -> LoraMatrices:
    down, up = matrices["A"], matrices["B"]
    rank = adapter_config.rank_of(name)
    expected = [rank, shape.inputs], [shape.outputs, rank]
    if (list(down.shape), list(up.shape)) != expected:
        _reject(
            f"{_quoted(name)} has matrices {list(down.shape)} and {list(up.shape)}; "
            f"the model and adapter_config.json require {expected[0]} and {expected[1]}"
        )
    scaled = up.float().t() * adapter_config.scale_of(name)
    scaled_pair = LoraMatrices(
        down.to(shape.dtype).contiguous(), scaled.to(shape.dtype).contiguous()
    )
    if not (scaled_pair.down.isfinite().all() and scaled_pair.up.isfinite().all()):
        _reject(f"{_quoted(name)} has values that are not finite in {shape.dtype}")
    return scaled_pair


def _quoted(name: str) -> str:
    """Shorten and quote a name for an error text that is shown to clients."""
    return repr(name if len(name) <= 120 else f"{name[:120]}...")


def _reject(reason: str) -> NoReturn:
    raise AdapterError(f"{WEIGHTS_FILE}: {reason}")
