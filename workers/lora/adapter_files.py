"""An adapter out of a folder that PEFT wrote, or a clear reason why not.

Only safetensors are read: no pickle is ever opened.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from headrace.workers.errors import AdapterError
from headrace.workers.lora.adapter_config import AdapterConfig, parse_config, read_file, read_config

WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLE_FILE = "adapter_model.bin"
# What PEFT puts around a layer's name; adapters that were saved in another way name themselves.
_NAME = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_HEADER_BYTES = 16 * 1024 * 1024  # of names and shapes, at most


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A layer [inputs] → [outputs] that adapters may change. dtype: of adapters' matrices there."""

    inputs: int
    outputs: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class LoraMatrices:
    """What an adapter adds to a layer's output: rows [n, inputs] @ down.T @ up.

    down: [rank, inputs]. up: [rank, outputs], with the adapter's scale in it. (Hu et al. 2021,
    arXiv 2106.09685, call them A and B, with B transposed.)
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """pairs: by the names of the layers that it changes. In the host's memory."""

    matrices: Mapping[str, LoraMatrices]


def read_adapter(folder: Path, layers: Mapping[str, LinearShape], max_rank: int) -> Adapter:
    """The folder's adapter, checked against the layers of the model. AdapterError if it has none,
    if it is for another model, or if it changes what adapters cannot change here."""
    adapter_config = parse_config(read_config(folder), max_rank)
    matrices = _by_layer(_read_tensors(folder, layers, max_rank))
    if not matrices:
        _reject("there is no matrix of LoRA in it")
    names = _resolve(matrices, layers)
    return Adapter(
        {
            names[given]: _scaled_matrices(given, pair, layers[names[given]], adapter_config)
            for given, pair in matrices.items()
        }
    )


def _read_tensors(
    folder: Path, layers: Mapping[str, LinearShape], max_rank: int
) -> dict[str, Tensor]:
    if not (folder / WEIGHTS_FILE).exists() and (folder / _PICKLE_FILE).exists():
        raise AdapterError(f"{_PICKLE_FILE} is pickle, which is not read: save as {WEIGHTS_FILE}")
    largest = 4 * max_rank * sum(shape.inputs + shape.outputs for shape in layers.values())
    # Read into memory: a file that is cut off while it is mapped would end the process.
    data = read_file(folder / WEIGHTS_FILE, largest + _HEADER_BYTES)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise AdapterError(f"{WEIGHTS_FILE} is no safetensors file, or is damaged") from error


def _by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The matrices "A" and "B" by the layers' names as the file has them."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found is None:
            _reject(f"{_quoted(name)} is no matrix of LoRA")
        if tensor.ndim != 2 or tensor.dtype not in _FLOATS:
            _reject(f"{_quoted(name)} is no matrix of 16 or 32 bit floats")
        layer, which = found.groups()
        if layers.setdefault(layer, {}).setdefault(which, tensor) is not tensor:
            _reject(f"{_quoted(layer)} has two matrices {which}")
    for layer, matrices in layers.items():
        if len(matrices) != 2:
            _reject(f"{_quoted(layer)} has one matrix of two")
    return layers


def _resolve(given: Mapping[str, object], layers: Mapping[str, LinearShape]) -> dict[str, str]:
    """The model's names of the layers that a file names.

    One that was trained without its head has names without their beginning ("layers.0..." for
    "model.layers.0..."), so an end that only one layer has will do.
    """
    names = {name: name if name in layers else _with_end(name, layers) for name in given}
    if len(set(names.values())) != len(names):
        _reject("one layer has two names in it")
    return names


def _with_end(name: str, layers: Mapping[str, LinearShape]) -> str:
    found = [layer for layer in layers if layer.endswith(f".{name}")]
    if len(found) != 1:
        _reject(f"the model has no layer {_quoted(name)} that adapters can change")
    return found[0]


def _scaled_matrices(
    name: str, matrices: Mapping[str, Tensor], shape: LinearShape, adapter_config: AdapterConfig
) -> LoraMatrices:
    down, up = matrices["A"], matrices["B"]
    rank = adapter_config.rank_of(name)
    expected = [rank, shape.inputs], [shape.outputs, rank]
    if (list(down.shape), list(up.shape)) != expected:
        _reject(
            f"{_quoted(name)} has matrices {list(down.shape)} and {list(up.shape)}; "
            f"model and adapter_config.json make them {expected[0]} and {expected[1]}"
        )
    scaled = up.float().t() * adapter_config.scale_of(name)
    pair = LoraMatrices(down.to(shape.dtype).contiguous(), scaled.to(shape.dtype).contiguous())
    if not (pair.down.isfinite().all() and pair.up.isfinite().all()):
        _reject(f"{_quoted(name)} has values that are not finite in {shape.dtype}")
    return pair


def _quoted(name: str) -> str:
    """A name in a line for clients."""
    return repr(name if len(name) <= 120 else f"{name[:120]}...")


def _reject(reason: str) -> NoReturn:
    raise AdapterError(f"{WEIGHTS_FILE}: {reason}")
