"""Weights packed into panels for the kernels (see src/gemm.h)."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch

from workers.native.library import PANEL, kernels

_HALF = PANEL // 2


class Panels:
    """One packed weight.

    outputs: of the product; for a gate and its partner, of both.
    bias: [outputs in whole panels], in the order of the panels; None if there is none.
    """

    def __init__(self, outputs: int, num_panels: int, inputs: int, dtype: torch.dtype) -> None:
        library = kernels()
        assert library is not None
        self._library = library
        self._is_bf16 = dtype == torch.bfloat16
        words = -(-inputs // 2) if self._is_bf16 else inputs
        self.outputs = outputs
        self.bias: torch.Tensor | None = None
        self.num_bytes = num_panels * words * PANEL * 4
        address = library.allocate(self.num_bytes)
        if not address:
            raise MemoryError("no memory for the weights")
        self.address: int = address
        weakref.finalize(self, library.free, address, self.num_bytes)

    @classmethod
    def plain(cls, parts: Sequence[dict[str, Any]], dtype: torch.dtype) -> "Panels":
        """Several linears that read the same inputs, their outputs one after another."""
        weights = [_weight(part) for part in parts]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        outputs, inputs = weight.shape
        num_panels = -(-outputs // PANEL)
        panels = cls(outputs, num_panels, inputs, dtype)
        panels._put(weight.to(dtype), 0, PANEL)
        biases = [_bias(part) for part in parts]
        if any(bias is not None for bias in biases):
            panels.bias = torch.zeros(num_panels * PANEL)
            torch.cat(
                [
                    torch.zeros(len(weight)) if bias is None else bias.float()
                    for weight, bias in zip(weights, biases, strict=True)
                ],
                out=panels.bias[:outputs],
            )
        return panels

    @classmethod
    def gated(cls, gate: dict[str, Any], partner: dict[str, Any], dtype: torch.dtype) -> "Panels":
        """Panels of 16 outputs of the gate and the same 16 of its partner."""
        weights = _weight(gate), _weight(partner)
        outputs, inputs = weights[0].shape
        num_panels = -(-outputs // _HALF)
        panels = cls(2 * outputs, num_panels, inputs, dtype)
        for half, weight in enumerate(weights):
            panels._put(weight.to(dtype), half * _HALF, _HALF)
        biases = _bias(gate), _bias(partner)
        if any(bias is not None for bias in biases):
            both = torch.zeros((2, num_panels * _HALF))
            for half, bias in enumerate(biases):
                if bias is not None:
                    both[half, :outputs] = bias.float()
            panels.bias = both.view(2, -1, _HALF).transpose(0, 1).reshape(-1).contiguous()
        return panels

    def _put(self, weight: torch.Tensor, lane: int, lanes_each: int) -> None:
        outputs, inputs = weight.shape
        weight = weight.contiguous()
        self._library.pack(
            self._is_bf16, weight.data_ptr(), outputs, inputs, inputs, 0, lane, lanes_each,
            self.address,
        )  # fmt: skip


def _weight(part: dict[str, Any]) -> torch.Tensor:
    """A linear's weight [outputs, inputs], or those outputs that are taken."""
    weight: torch.Tensor = part["weight"]
    if part["transposed"]:
        weight = weight.t()
    first = part.get("first", 0)
    return weight[first : first + part.get("count", weight.shape[0])]


def _bias(part: dict[str, Any]) -> torch.Tensor | None:
    bias: torch.Tensor | None = part["bias"]
    if bias is None:
        return None
    first = part.get("first", 0)
    return bias[first : first + part.get("count", bias.shape[0])]
