"""The tensors of a model folder by name, as files have them."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from headrace.protocol.common.gguf_reference import REFERENCE, GGUFFilesError
from headrace.protocol.common.stored_quantization import (
    StoredQuantizationError,
    stored_quantization,
)
from headrace.workers.quantized.gguf_file import GGUFWeights
from headrace.workers.quantized.packed_files import PackedFiles
from headrace.workers.quantized.stack import attach_stack, stack_of
from headrace.workers.quantized.tensor import QuantizedTensor, attach_quantized, quantized_of

_PARTS = ("model", "transformer")  # what transformers puts before the names of a model's base


class WeightFiles:
    """The safetensors of a folder, which may be packed integers, or the GGUF file that it refers
    to. Tensors are mapped from them, and read where they are used.

    Raises OSError or SafetensorError if a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._quantized: GGUFWeights | PackedFiles | None = None
        try:
            if (folder / REFERENCE).is_file():
                self._quantized = GGUFWeights(folder)
            elif stored_quantization(folder) is not None:
                self._quantized = PackedFiles(folder)
        except (GGUFFilesError, StoredQuantizationError) as error:
            raise OSError(str(error)) from error
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)

    def read(self, name: str) -> torch.Tensor | None:
        """Return a tensor in the file's dtype; None if there is none of this name.

        That of a matrix in blocks has no values: they are in the file (`quantized_of`).
        """
        if self._quantized is not None:
            return self._read_quantized(self._quantized, name)
        file = self._files.get(name)
        tensor: torch.Tensor | None = None if file is None else file.get_tensor(name)
        return tensor

    def notes(self, dtype: torch.dtype) -> Iterator[str]:
        """Yield lines for the operator about the tensors that were read, used in that dtype."""
        if self._quantized is not None:
            yield from self._quantized.notes(dtype)

    @staticmethod
    def _read_quantized(weights: GGUFWeights | PackedFiles, name: str) -> torch.Tensor | None:
        if name not in weights.names:
            return None
        weight = weights.read(name, torch.float32)
        if isinstance(weight, torch.Tensor):
            return weight
        # Its own placeholder would refer to it and be referred to: then the file would stay mapped
        # until the garbage is collected.
        values: torch.Tensor = torch.zeros(()).expand(weight.shape)
        if isinstance(weight, QuantizedTensor):
            attach_quantized(values, weight)
        else:
            attach_stack(values, weight)
        return values

    def find_product(self, name: str, like: torch.Tensor) -> str | None:
        """Return the name under which the files have a convolution's weight, of which
        `product_weight` makes `like`."""
        for candidate in _names(name):
            tensor = self.read(candidate)
            if tensor is None or tensor.ndim != 3 or tensor.numel() != like.numel():
                continue
            if torch.equal(product_weight(tensor).to(like.dtype), like.detach()):
                return candidate
        return None

    def find(self, name: str, like: torch.Tensor) -> str | None:
        """Return the name under which the files have the numbers of a model's parameter.

        They may differ in dtype: then the file's, rounded to the parameter's, are the same.
        """
        longer = [other for other in self._files if other.endswith(f".{name}")]
        for candidate in (*_names(name), *longer):  # files of a model with a head have its prefix
            tensor = self.read(candidate)
            if tensor is None or tensor.shape != like.shape:
                continue
            if _is_quantized(like):
                if _is_quantized(tensor):
                    return candidate
            elif torch.equal(tensor.to(like.dtype), like.detach()):
                return candidate
        return None


def product_weight(convolution: torch.Tensor) -> torch.Tensor:
    """Return a convolution's weight [outputs, inputs, positions] as that of a product with the
    inputs of one position after another in a row [outputs, positions * inputs]."""
    return convolution.permute(0, 2, 1).reshape(len(convolution), -1).contiguous()


def _is_quantized(tensor: torch.Tensor) -> bool:
    return quantized_of(tensor) is not None or stack_of(tensor) is not None


def _names(name: str) -> Iterator[str]:
    """Yield the names that a parameter may have: files of a model's base lack its prefix."""
    yield name
    first, _, rest = name.partition(".")
    if first in _PARTS and rest:
        yield rest
    yield from (f"{part}.{name}" for part in _PARTS)
