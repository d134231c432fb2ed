"""Read a model's tensors from safetensors whose linear layers are packed integers.

Weights that the kernels multiply stay in the files, which are mapped: as `QuantizedTensor`. Others
are expanded; `notes` says which and why.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from headrace.protocol.common.stored_quantization import StoredQuantization, stored_quantization
from headrace.workers.quantized.grouped_weight import GroupedWeight
from headrace.workers.quantized.integer_codes import (
    ReadCodes,
    codes_across,
    codes_of_awq,
    codes_of_bytes,
    codes_of_columns,
    codes_of_rows,
)
from headrace.workers.quantized.tensor import QuantizedTensor

Weight = QuantizedTensor | torch.Tensor

_WORD_BITS = 32
_BASES = ("model", "transformer")  # what transformers puts before the names of a model's base
_CODES = (".qweight", ".weight_packed")  # the tensors of codes
# What belongs to a layer's codes, and is no tensor of the model.
_COMPANIONS = (
    ".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_zero_point",
    ".weight_shape", ".weight_g_idx", ".input_scale", ".input_zero_point", ".output_scale",
    ".k_scale", ".v_scale", ".q_scale",
)  # fmt: skip
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def is_packed(folder: Path) -> bool:
    """Return whether `PackedFiles` is to read a folder's weights.

    Raises StoredQuantizationError if nothing can.
    """
    found = stored_quantization(folder)
    return found is not None and found.method != "mxfp4"


class PackedFiles:
    """The tensors of a folder by the model's names.

    Raises OSError or SafetensorError if a file cannot be read, StoredQuantizationError if the
    folder's quantization is not supported.
    """

    def __init__(self, folder: Path) -> None:
        found = stored_quantization(folder)
        assert found is not None
        self._quantization: StoredQuantization = found
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)
        self._names = dict(self._find_names())
        self._expanded: Counter[str] = Counter()

    @property
    def names(self) -> set[str]:
        return set(self._names)

    def notes(self, dtype: torch.dtype) -> Iterator[str]:
        """Yield a line for each kind of weights that were expanded so far."""
        for kind, count in self._expanded.items():
            name = str(dtype).removeprefix("torch.")
            yield f"{count} weights {kind} have no kernel and are expanded to {name}"

    def read(self, name: str, dtype: torch.dtype) -> Weight:
        """Return a tensor: a matrix in blocks where it can be, else in a float type."""
        key = self._names[name]
        stem, _, last = key.rpartition(".")
        if f".{last}" in _CODES:
            return self._grouped(stem, dtype)
        tensor = self._tensor(key)
        if last == "weight" and tensor.dtype == torch.int8:
            return self._grouped(stem, dtype)
        if tensor.dtype in _FLOAT8:
            return self._float8(stem, tensor, dtype)
        return tensor.to(dtype)

    def unread_bias(self, names: set[str]) -> str | None:
        """Return the name of a quantized layer's bias, not zero, that is not among those names."""
        for name, key in self._names.items():
            stem = key.removesuffix(".bias")
            if stem != key and f"{stem}.qweight" in self._files and name == key:
                known = {name, *_variants(name)} & names
                if not known and bool(self._tensor(key).any()):
                    return name
        return None

    def _find_names(self) -> Iterator[tuple[str, str]]:
        """Yield the names that a model may have for tensors, and their names in the files."""
        own: dict[str, str] = {}
        for key in self._files:
            if key.endswith(_COMPANIONS):
                continue
            suffix = next((each for each in _CODES if key.endswith(each)), None)
            own[key if suffix is None else key.removesuffix(suffix) + ".weight"] = key
        for name, key in own.items():
            yield from ((variant, key) for variant in _variants(name) if variant not in own)
        yield from own.items()

    def _tensor(self, key: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[key].get_tensor(key)
        return tensor

    def _optional(self, key: str) -> torch.Tensor | None:
        return self._tensor(key) if key in self._files else None

    def _grouped(self, stem: str, dtype: torch.dtype) -> Weight:
        weight = self._layer(stem)
        packed = weight.quantized()
        if packed is not None:
            return packed
        self._expanded[weight.obstacle] += 1
        return weight.expanded(dtype)

    def _layer(self, stem: str) -> GroupedWeight:
        if f"{stem}.qweight" not in self._files:
            return self._compressed(stem)
        return self._awq(stem) if self._quantization.method == "awq" else self._gptq(stem)

    def _gptq(self, stem: str) -> GroupedWeight:
        words, zeros = self._tensor(f"{stem}.qweight"), self._tensor(f"{stem}.qzeros")
        scales = self._tensor(f"{stem}.scales")
        groups, outputs = scales.shape
        bits = zeros.shape[1] * _WORD_BITS // outputs
        inputs = words.shape[0] * _WORD_BITS // bits
        index = self._optional(f"{stem}.g_idx")
        return GroupedWeight(
            (outputs, inputs),
            bits,
            codes_of_columns(words, bits, inputs),
            scales.t(),
            _groups(index, inputs, groups),
            codes_across(zeros, bits),
            int(self._quantization.zeros_less_one),
        )

    def _awq(self, stem: str) -> GroupedWeight:
        words, scales = self._tensor(f"{stem}.qweight"), self._tensor(f"{stem}.scales")
        groups, outputs = scales.shape
        zeros = self._optional(f"{stem}.qzeros")
        return GroupedWeight(
            (outputs, len(words)),
            4,
            codes_of_awq(words),
            scales.t(),
            _groups(None, len(words), groups),
            None if zeros is None else codes_of_awq(zeros),
        )

    def _compressed(self, stem: str) -> GroupedWeight:
        scales = self._tensor(f"{stem}.weight_scale")
        packed = self._optional(f"{stem}.weight_packed")
        if packed is None:
            numbers = self._tensor(f"{stem}.weight")
            shape, bits, codes = tuple(numbers.shape), 8, codes_of_bytes(numbers)
        else:
            shape = tuple(self._tensor(f"{stem}.weight_shape").tolist())
            bits = packed.shape[1] * _WORD_BITS // shape[1]
            codes = codes_of_rows(packed, bits, shape[1])
        outputs, inputs = shape
        scales = scales.reshape(-1, 1) if scales.ndim < 2 else scales
        scales = scales.expand(outputs, scales.shape[1])
        index = self._optional(f"{stem}.weight_g_idx")
        groups = _groups(index, inputs, scales.shape[1])
        read, shift = self._compressed_zeros(stem, scales.shape[1], bits)
        return GroupedWeight((outputs, inputs), bits, codes, scales, groups, read, shift)

    def _compressed_zeros(self, stem: str, groups: int, bits: int) -> tuple[ReadCodes | None, int]:
        """Return what reads a layer's zero points, and what is to be added to them."""
        zeros = self._optional(f"{stem}.weight_zero_point")
        if zeros is None or (zeros.dtype != torch.int32 and not bool(zeros.any())):
            return None, 0
        if zeros.dtype == torch.int32:  # packed along the outputs
            return codes_across(zeros.t(), bits), 0
        outputs = len(self._tensor(f"{stem}.weight_scale"))
        each = zeros.to(torch.int8).reshape(-1, groups).expand(outputs, groups)
        return codes_of_bytes(each), (1 << bits - 1) - 128

    def _float8(self, stem: str, numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Expand a matrix of 8-bit floats with a scale for it, for outputs, or for squares."""
        scales = self._optional(f"{stem}.weight_scale_inv")
        if scales is None:
            scales = self._optional(f"{stem}.weight_scale")
        values = numbers.float()
        self._expanded["of 8-bit floats"] += 1
        if scales is None:
            return values.to(dtype)
        scales = scales.float()
        if scales.ndim == 1 and len(scales) > 1:
            scales = scales.unsqueeze(1)
        if scales.ndim == 2:
            for dim in (0, 1):
                size = -(-values.shape[dim] // scales.shape[dim])
                repeated = scales.repeat_interleave(size, dim)
                scales = repeated.narrow(dim, 0, values.shape[dim])
        return (values * scales).to(dtype)


def _groups(index: torch.Tensor | None, inputs: int, count: int) -> np.ndarray[Any, Any]:
    """Return the group of each input, from a tensor or one after the other."""
    if index is not None and bool((index >= 0).all()):
        return index.numpy().astype(np.int64)
    return np.arange(inputs) // _group_size(inputs, count)


def _group_size(inputs: int, count: int) -> int:
    """Return the inputs of each of `count` groups, which is a power of two or all inputs."""
    size = -(-inputs // count)
    return size if count == 1 or inputs % count == 0 else 1 << (size - 1).bit_length()


def _variants(name: str) -> Iterator[str]:
    """Yield other names of a tensor: files of a model's base lack its prefix."""
    first, _, rest = name.partition(".")
    if first in _BASES and rest:
        yield rest
    yield from (f"{base}.{name}" for base in _BASES)
