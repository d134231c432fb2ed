"""Read a model's tensors from safetensors whose linear layers are packed integers.

Weights that the kernels multiply stay in the files, which are mapped: as `QuantizedTensor`, those
of experts as `QuantizedStack`. Others are expanded; `notes` says which and why.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import torch

from headrace.protocol.common.stored_quantization import StoredQuantization, stored_quantization
from headrace.workers.quantized.expanded_weights import ExpandedWeights
from headrace.workers.quantized.float8_weight import FLOAT8, float8_weight
from headrace.workers.quantized.grouped_weight import GroupedWeight
from headrace.workers.quantized.packed_experts import (
    expert_matrix,
    mxfp4_floats,
    mxfp4_stack,
    renamed,
    stacked,
)
from headrace.workers.quantized.packed_layers import (
    TensorFiles,
    awq_layer,
    compressed_layer,
    gptq_layer,
)
from headrace.workers.quantized.stack import QuantizedStack
from headrace.workers.quantized.tensor import QuantizedTensor

Weight = QuantizedTensor | QuantizedStack | torch.Tensor

_BASES = ("model", "transformer")  # what transformers puts before the names of a model's base
_CODES = (".qweight", ".weight_packed")  # the tensors of codes
_FLOAT4 = "_blocks"  # the end of the names of experts in 4-bit floats
# What belongs to a layer's codes, and is no tensor of the model.
_COMPANIONS = (
    ".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_zero_point",
    ".weight_shape", ".weight_g_idx", ".input_scale", ".input_zero_point", ".output_scale",
    ".k_scale", ".v_scale", ".q_scale", "_proj_scales",
)  # fmt: skip


class PackedFiles:
    """The tensors of a folder by the model's names.

    names: all that `read` takes.

    Raises OSError or SafetensorError if a file cannot be read, StoredQuantizationError if the
    folder's quantization is not supported.
    """

    def __init__(self, folder: Path, rename: Callable[[str], str] = str) -> None:
        """rename: returns what the model calls a tensor of the files."""
        found = stored_quantization(folder)
        assert found is not None
        self._quantization: StoredQuantization = found
        self._files = TensorFiles(folder, rename)
        # Of each of the model's tensors of experts the names in the files, by expert and by part.
        self._experts: dict[str, dict[int, dict[int, str]]] = defaultdict(dict)
        self._names = dict(self._find_names())
        self.names = self._names.keys() | self._experts.keys()
        self._expanded = ExpandedWeights()
        self._num_rounded = 0

    def notes(self, dtype: torch.dtype) -> Iterator[str]:
        """Yield a line for each kind of weights that were expanded, or rounded, so far."""
        yield from self._expanded.notes(dtype)
        if self._num_rounded:
            yield (
                f"{self._num_rounded} weights of 8-bit floats are for kernels 8-bit integers in "
                "blocks of 32; --dtype float32 computes with their own numbers"
            )

    def read(self, name: str, dtype: torch.dtype) -> Weight:
        """Return a tensor: a matrix in blocks where it can be, else in a float type."""
        if name in self._experts:
            return self._read_experts(self._experts[name], dtype)
        key = self._names[name]
        return self._float4(key, dtype) if key.endswith(_FLOAT4) else self._read(key, dtype)

    def unread(self, names: Set[str]) -> set[str]:
        """Return the names of tensors that are none of those names, nor belong to one."""
        keys = {self._names[name] for name in names if name in self._names}
        for name in names & self._experts.keys():
            keys |= {key for parts in self._experts[name].values() for key in parts.values()}
        stems = {key.rpartition(".")[0] for key in keys}
        stems |= {key.removesuffix(_FLOAT4) for key in keys}
        return {
            key
            for key in self._files.keys
            if key not in keys and not (key.endswith(_COMPANIONS) and _stem_of(key) in stems)
        }

    def find(self, name: str) -> torch.Tensor | None:
        """Return a tensor as the files have it; None if there is none of that name."""
        return self._files.optional(name)

    def _find_names(self) -> Iterator[tuple[str, str]]:
        """Yield the names that a model may have for tensors, and their names in the files."""
        own: dict[str, str] = {}
        for key in self._files.keys:
            if key.endswith(_COMPANIONS):
                continue
            suffix = next((each for each in _CODES if key.endswith(each)), None)
            name = key if suffix is None else key.removesuffix(suffix) + ".weight"
            own[renamed(name).removesuffix(_FLOAT4)] = key
        for name, key in own.items():
            expert = expert_matrix(name)
            if expert is not None:
                for tensor in (expert.tensor, *_variants(expert.tensor)):
                    self._experts[tensor].setdefault(expert.number, {})[expert.part] = key
            yield from ((variant, key) for variant in _variants(name) if variant not in own)
        yield from own.items()

    def _read(self, key: str, dtype: torch.dtype) -> QuantizedTensor | torch.Tensor:
        """Return a tensor of a name in the files."""
        stem, _, last = key.rpartition(".")
        if f".{last}" in _CODES:
            return self._grouped(stem, dtype)
        tensor = self._files.tensor(key)
        if last == "weight" and tensor.dtype == torch.int8:
            return self._grouped(stem, dtype)
        if tensor.dtype in FLOAT8:
            return self._float8(stem, dtype)
        return tensor.to(dtype)

    def _float8(self, stem: str, dtype: torch.dtype) -> QuantizedTensor | torch.Tensor:
        weight = float8_weight(self._files, stem, self._quantization.squares)
        packed = weight.quantized()
        if packed is not None:
            self._num_rounded += 1
            return packed
        kind = "of 8-bit floats with scales that 16 bits cannot hold"
        self._expanded.add(kind, weight.values.numel(), 8)
        return weight.expanded(dtype)

    def _grouped(self, stem: str, dtype: torch.dtype) -> QuantizedTensor | torch.Tensor:
        weight = self._layer(stem)
        packed = weight.quantized()
        if packed is not None:
            return packed
        self._expanded.add(weight.obstacle, weight.shape[0] * weight.shape[1], weight.bits)
        return weight.expanded(dtype)

    def _layer(self, stem: str) -> GroupedWeight:
        if f"{stem}.qweight" not in self._files:
            return compressed_layer(self._files, stem)
        if self._quantization.method == "awq":
            return awq_layer(self._files, stem)
        return gptq_layer(self._files, stem, self._quantization)

    def _read_experts(self, keys: dict[int, dict[int, str]], dtype: torch.dtype) -> Weight:
        """Return the matrices of all experts, [experts, outputs, inputs]."""
        matrices = [
            [self._read(parts[part], dtype) for part in sorted(parts)]
            for _, parts in sorted(keys.items())
        ]
        stack = stacked(matrices)
        if stack is not None:
            return stack
        packed = [m for parts in matrices for m in parts if isinstance(m, QuantizedTensor)]
        for matrix in packed:
            elements = matrix.shape[0] * matrix.shape[1]
            kind = "of experts in act-order, or in several formats,"
            self._expanded.add(kind, elements, matrix.nbytes * 8 / elements)
        floats = [torch.cat([_floats(part, dtype) for part in parts]) for parts in matrices]
        return torch.stack(floats)

    def _float4(self, key: str, dtype: torch.dtype) -> Weight:
        blocks = self._files.tensor(key)
        scales = self._files.tensor(key.removesuffix(_FLOAT4) + "_scales")
        stack = mxfp4_stack(blocks, scales)
        if stack is not None:
            return stack
        kind = "of 4-bit floats with scales that 16 bits cannot hold"
        self._expanded.add(kind, 2 * blocks.numel(), 4)
        return mxfp4_floats(blocks, scales, dtype)


def _stem_of(key: str) -> str:
    """Return what a tensor that belongs to a layer's codes begins with."""
    end = next(end for end in _COMPANIONS if key.endswith(end))
    return key.removesuffix("_scales" if end == "_proj_scales" else end)


def _floats(part: QuantizedTensor | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return part if isinstance(part, torch.Tensor) else part.dequantize(dtype=dtype)


def _variants(name: str) -> Iterator[str]:
    """Yield other names of a tensor: files of a model's base lack its prefix."""
    first, _, rest = name.partition(".")
    if first in _BASES and rest:
        yield rest
    yield from (f"{base}.{name}" for base in _BASES)
