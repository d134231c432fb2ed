"""The tensors that a quantized linear layer has in safetensors, by format.

Bits and groups are told by the tensors' shapes, so that layers may differ.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from headrace.protocol.common.stored_quantization import StoredQuantization
from headrace.workers.quantized.grouped_weight import GroupedWeight
from headrace.workers.quantized.integer_codes import (
    ReadCodes,
    codes_across,
    codes_of_awq,
    codes_of_bytes,
    codes_of_columns,
    codes_of_rows,
)

_WORD_BITS = 32


class TensorFiles:
    """The tensors of a folder's safetensors, which are mapped.

    Raises OSError or SafetensorError if a file cannot be read.
    """

    def __init__(self, folder: Path, rename: Callable[[str], str] = str) -> None:
        """rename: returns the name of a tensor of the files."""
        self._stack = ExitStack()
        self._files: dict[str, tuple[Any, str]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            self._files |= {rename(key): (file, key) for key in file.keys()}  # noqa: SIM118

    @property
    def keys(self) -> list[str]:
        return list(self._files)

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def tensor(self, key: str) -> torch.Tensor:
        """Return a tensor. Raises KeyError if there is none of that name."""
        file, own = self._files[key]
        tensor: torch.Tensor = file.get_tensor(own)
        return tensor

    def optional(self, key: str) -> torch.Tensor | None:
        """Return a tensor; None if there is none of that name."""
        return self.tensor(key) if key in self._files else None


def gptq_layer(files: TensorFiles, stem: str, quantization: StoredQuantization) -> GroupedWeight:
    """Return a layer of GPTQ. quantization: what the folder's configuration says."""
    words, zeros = _words(files, f"{stem}.qweight"), _words(files, f"{stem}.qzeros")
    scales = files.tensor(f"{stem}.scales")
    groups, outputs = scales.shape
    index = files.optional(f"{stem}.g_idx")
    bits = zeros.shape[1] * _WORD_BITS // outputs
    if index is not None:  # zero points may be filled up to whole words
        bits = words.shape[0] * _WORD_BITS // len(index)
        if not 0 <= zeros.shape[1] * _WORD_BITS - outputs * bits < bits * _WORD_BITS:
            raise ValueError(f"{stem}: codes have {bits} bits, and zero points another number")
    inputs = words.shape[0] * _WORD_BITS // bits
    return GroupedWeight(
        (outputs, inputs),
        bits,
        codes_of_columns(words, bits, inputs),
        scales.t(),
        _groups(index, inputs, groups, quantization.group_size),
        codes_across(zeros, bits),
        int(quantization.zeros_less_one),
    )


def awq_layer(files: TensorFiles, stem: str) -> GroupedWeight:
    """Return a layer of AWQ, version gemm."""
    words, scales = _words(files, f"{stem}.qweight"), files.tensor(f"{stem}.scales")
    groups, outputs = scales.shape
    zeros = _words(files, f"{stem}.qzeros") if f"{stem}.qzeros" in files else None
    return GroupedWeight(
        (outputs, len(words)),
        4,
        codes_of_awq(words),
        scales.t(),
        _groups(None, len(words), groups),
        None if zeros is None else codes_of_awq(zeros),
    )


def compressed_layer(files: TensorFiles, stem: str) -> GroupedWeight:
    """Return a layer of compressed-tensors, packed or in bytes."""
    scales = files.tensor(f"{stem}.weight_scale")
    name = f"{stem}.weight_packed"
    packed = _words(files, name) if name in files else None
    if packed is None:
        numbers = files.tensor(f"{stem}.weight")
        shape, bits, codes = tuple(numbers.shape), 8, codes_of_bytes(numbers)
    else:
        shape = tuple(files.tensor(f"{stem}.weight_shape").tolist())
        bits = packed.shape[1] * _WORD_BITS // shape[1]
        codes = codes_of_rows(packed, bits, shape[1])
    outputs, inputs = shape
    scales = scales.reshape(-1, 1) if scales.ndim < 2 else scales
    scales = scales.expand(outputs, scales.shape[1])
    index = files.optional(f"{stem}.weight_g_idx")
    groups = _groups(index, inputs, scales.shape[1])
    read, shift = _compressed_zeros(files, stem, tuple(scales.shape), bits)
    return GroupedWeight((outputs, inputs), bits, codes, scales, groups, read, shift)


def _compressed_zeros(
    files: TensorFiles, stem: str, shape: tuple[int, ...], bits: int
) -> tuple[ReadCodes | None, int]:
    """Return what reads a layer's zero points, and what is to be added to them.

    shape: of the layer's scales.
    """
    zeros = files.optional(f"{stem}.weight_zero_point")
    if zeros is None or (zeros.dtype != torch.int32 and not bool(zeros.any())):
        return None, 0
    if zeros.dtype == torch.int32:  # packed along the outputs
        return codes_across(zeros.t(), bits), 0
    each = zeros.to(torch.int8).reshape(-1, shape[1]).expand(shape)
    return codes_of_bytes(each), (1 << bits - 1) - 128


def _words(files: TensorFiles, key: str) -> torch.Tensor:
    """Return a tensor of words. Raises KeyError, or ValueError if its numbers have other types."""
    words = files.tensor(key)
    if words.dtype not in (torch.int32, torch.uint32):
        raise ValueError(f"{key} has numbers of the type {str(words.dtype).removeprefix('torch.')}")
    return words


def _groups(
    index: torch.Tensor | None, inputs: int, count: int, size: int = 0
) -> npt.NDArray[np.int64]:
    """Return the group of each input, from a tensor or one after the other.

    size: of a group, if it is known.

    Raises ValueError if the tensor names a group that does not exist.
    """
    if index is not None and bool((index >= 0).all()):
        if bool((index >= count).any()):
            raise ValueError(f"inputs are in group {int(index.max())} of {count}")
        return index.numpy().astype(np.int64)
    fits = size > 0 and -(-inputs // size) == count
    return np.arange(inputs) // (size if fits else -(-inputs // count))
