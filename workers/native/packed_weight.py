"""Pack weights into panels for the kernels (see src/gemm.h)."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from headrace.workers.linear.quantization import quantize_weight
from headrace.workers.native.library import PANEL_OUTPUTS, require_kernels
from headrace.workers.native.stored_dtype import dtype_of
from headrace.workers.native.weight_format import WeightFormat
from headrace.workers.quantized.tensor import QuantizedTensor, quantized_of

ALIGNMENT = 64  # of panels, and of their scales, in bytes
_HALF = PANEL_OUTPUTS // 2


class PackedWeight:
    """One packed weight: first planned, then put at an address, then packed.

    num_bytes: the memory that it needs, with its scales.
    outputs: of the product; for a gate and its partner, of both together.
    bias: [outputs in whole panels], in the order of the panels; None if there is none.
    scales_address: where the kernels read the scales of 8-bit weights; None for others.

    Addresses are valid after `set_address`.
    """

    def __init__(
        self,
        parts: Sequence[dict[str, Any]],
        dtype: torch.dtype,
        weight_format: WeightFormat,
        is_gated: bool,
    ) -> None:
        """Plan the weight of linears that read the same inputs.

        parts: the linears, in the order of their outputs.
        is_gated: whether they are a gate and its partner; a panel then holds 16 outputs of the gate
            and the same 16 of the partner.
        """
        self._parts, self._dtype, self.weight_format, self._is_gated = (
            parts,
            dtype,
            weight_format,
            is_gated,
        )
        weights = [weight_of(part) for part in parts]
        self.outputs = sum(len(weight) for weight in weights)
        self._inputs = weights[0].shape[1]
        self.num_panels = -(
            -self.outputs // 2 // _HALF if is_gated else -self.outputs // PANEL_OUTPUTS
        )
        self.num_bytes = 0
        self._scale_bytes = 0
        self._plan_memory()
        self.address = 0
        self.scales_address: int | None = None
        self.bias = self._bias(weights)

    def _plan_memory(self) -> None:
        self._per_word = 2 if self._dtype == torch.bfloat16 else 1
        if self.weight_format == WeightFormat.INT8_DYNAMIC:
            self._per_word = 4
        self._words = -(-self._inputs // self._per_word)
        word_bytes = self._per_word if self.weight_format else 4
        self._panel_bytes = self.num_panels * PANEL_OUTPUTS * self._words * word_bytes
        # For 8-bit rows also the excess that must be subtracted from the sums.
        scales = {WeightFormat.FLOAT: 0, WeightFormat.INT8_DYNAMIC: 2}.get(self.weight_format, 1)
        self._scale_bytes = self.num_panels * PANEL_OUTPUTS * 4 * scales
        self._scales_offset = -(-self._panel_bytes // ALIGNMENT) * ALIGNMENT
        self.num_bytes = self._panel_bytes
        if scales:
            self.num_bytes = self._scales_offset + self._scale_bytes

    @property
    def plan(self) -> tuple[object, ...]:
        """Everything that the packed bytes depend on, except the numbers in the weights."""
        parts = [
            (tuple(part["weight"].shape), part["transposed"], part.get("first"), part.get("count"))
            for part in self._parts
        ]
        return (parts, str(self._dtype), self.weight_format, self._is_gated, self.num_bytes)

    def set_address(self, address: int) -> None:
        """Set the address of the weight's memory: num_bytes, aligned to 64 bytes."""
        self.address = address
        if self._scale_bytes:
            self.scales_address = address + self._scales_offset

    def pack(self) -> None:
        """Write the packed weight to its address, where the memory must be zeroed."""
        weights = [self._floats(part) for part in self._parts]
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        if self.weight_format == WeightFormat.FLOAT:
            self._pack_floats(whole.to(self._dtype).contiguous())
        else:
            self._pack_int8(whole)

    def release_source(self) -> None:
        """Drop the references to the weights that this one is packed from."""
        self._parts = ()

    def _floats(self, part: dict[str, Any]) -> torch.Tensor:
        quantized = quantized_part(part)
        if quantized is not None:
            return quantized.to_dtype(self._dtype)
        return weight_of(part).to(dtype_of(part["weight"]))

    def _bias(self, weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
        biases = [_bias(part) for part in self._parts]
        if all(bias is None for bias in biases):
            return None
        given = [
            torch.zeros(len(weight)) if bias is None else bias.float()
            for weight, bias in zip(weights, biases, strict=True)
        ]
        return self.to_panel_order(torch.cat(given)).contiguous()

    def to_panel_order(self, values: torch.Tensor) -> torch.Tensor:
        """Reorder [outputs, ...] to [panels * PANEL_OUTPUTS, ...], padded with zeros."""
        padding = self.num_panels * PANEL_OUTPUTS - values.shape[0]
        dims = values.shape[1:]
        if not self._is_gated:
            return torch.cat([values, values.new_zeros((padding, *dims))])
        both = values.view(2, -1, *dims)
        both = torch.cat([both, both.new_zeros((2, padding // 2, *dims))], dim=1)
        panels = both.view(2, self.num_panels, _HALF, *dims).transpose(0, 1)
        return panels.reshape(self.num_panels * PANEL_OUTPUTS, *dims)

    def _pack_floats(self, weight: torch.Tensor) -> None:
        outputs, inputs = weight.shape
        is_bf16 = weight.dtype == torch.bfloat16
        library = require_kernels()
        count, lanes = (2, _HALF) if self._is_gated else (1, PANEL_OUTPUTS)
        for half in range(count):
            part = weight[half * outputs // count : (half + 1) * outputs // count]
            library.pack(
                is_bf16, part.data_ptr(), part.shape[0], inputs, inputs, 0, half * lanes, lanes,
                self.address,
            )  # fmt: skip

    def _pack_int8(self, weight: torch.Tensor) -> None:
        values, scales = quantize_weight(weight)
        words, per_word = self._words, self._per_word
        values = self.to_panel_order(
            torch.nn.functional.pad(values, (0, words * per_word - self._inputs))
        )
        scales = self.to_panel_order(scales)
        if self.weight_format == WeightFormat.INT8_DYNAMIC:  # rows are stored 128 too large
            excess = values.sum(dim=1, dtype=torch.int32) * 128
            scales = torch.cat([scales, excess.view(torch.float32)])
        panels = (
            values.view(self.num_panels, PANEL_OUTPUTS, words, per_word)
            .transpose(1, 2)
            .contiguous()
        )
        ctypes.memmove(self.address, panels.data_ptr(), self._panel_bytes)
        assert self.scales_address is not None
        ctypes.memmove(self.scales_address, scales.data_ptr(), self._scale_bytes)


def weight_of(part: dict[str, Any]) -> torch.Tensor:
    """Return a linear's weight [outputs, inputs], cut to the outputs that the part takes.

    It has no values if `quantized_part` returns one.
    """
    weight: torch.Tensor = part["weight"]
    if part["transposed"]:
        weight = weight.t()
    first = part.get("first", 0)
    return weight[first : first + part.get("count", weight.shape[0])]


def quantized_part(part: dict[str, Any]) -> QuantizedTensor | None:
    """Return the same of a weight in the bytes of a file; None if it is in a tensor."""
    quantized = quantized_of(part["weight"])
    if quantized is None:
        return None
    assert not part["transposed"]
    first = part.get("first", 0)
    return quantized.take(slice(first, first + part.get("count", quantized.shape[0])))


def _bias(part: dict[str, Any]) -> torch.Tensor | None:
    bias: torch.Tensor | None = part["bias"]
    if bias is None:
        return None
    first = part.get("first", 0)
    return bias[first : first + part.get("count", bias.shape[0])]
