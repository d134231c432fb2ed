"""Weights packed into panels for the kernels (see src/gemm.h)."""

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from workers.native.library import PANEL, kernels
from workers.native.lower import INTEGERS, WORDS
from workers.quantization import quantize_weight

_HALF = PANEL // 2


class Panels:
    """One packed weight.

    form: WORDS, or one of the two kinds of 8-bit weights (see workers.native.lower).
    outputs: of the product; for a gate and its partner, of both.
    bias: [outputs in whole panels], in the order of the panels; None if there is none.
    scales: of 8-bit weights, as the kernels read them; None for others.
    """

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype, form: int, halves: bool) -> None:
        """weight [outputs, inputs]; halves: first all of a gate, then all of its partner."""
        library = kernels()
        assert library is not None
        self._library = library
        self._halves = halves
        self.outputs = weight.shape[0]
        self.num_panels = -(-weight.shape[0] // 2 // _HALF if halves else -weight.shape[0] // PANEL)
        self.bias: torch.Tensor | None = None
        self.scales: torch.Tensor | None = None
        per_word = 4 if form == INTEGERS else 2 if dtype == torch.bfloat16 else 1
        words = -(-weight.shape[1] // per_word)
        self.num_bytes = self.num_panels * PANEL * words * (per_word if form else 4)
        address = library.allocate(self.num_bytes)
        if not address:
            raise MemoryError("no memory for the weights")
        self.address: int = address
        weakref.finalize(self, library.free, address, self.num_bytes)
        if form == WORDS:
            self._put_words(weight.to(dtype).contiguous())
        else:
            self._put_bytes(weight, per_word, words, form)

    @classmethod
    def plain(cls, parts: Sequence[dict[str, Any]], dtype: torch.dtype, form: int) -> "Panels":
        """Several linears that read the same inputs, their outputs one after another."""
        return cls._of(parts, dtype, form, halves=False)

    @classmethod
    def gated(
        cls, gate: dict[str, Any], partner: dict[str, Any], dtype: torch.dtype, form: int
    ) -> "Panels":
        """Panels of 16 outputs of the gate and the same 16 of its partner."""
        return cls._of([gate, partner], dtype, form, halves=True)

    @classmethod
    def _of(
        cls, parts: Sequence[dict[str, Any]], dtype: torch.dtype, form: int, halves: bool
    ) -> "Panels":
        weights = [_weight(part) for part in parts]
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        panels = cls(whole, dtype, form, halves)
        biases = [_bias(part) for part in parts]
        if any(bias is not None for bias in biases):
            given = [
                torch.zeros(len(weight)) if bias is None else bias.float()
                for weight, bias in zip(weights, biases, strict=True)
            ]
            panels.bias = panels._in_panels(torch.cat(given)).contiguous()
        return panels

    def _in_panels(self, values: torch.Tensor) -> torch.Tensor:
        """[outputs, ...] in the order of the panels, [panels * PANEL, ...], zeros where none is."""
        padding = self.num_panels * PANEL - values.shape[0]
        rest = values.shape[1:]
        if not self._halves:
            return torch.cat([values, values.new_zeros((padding, *rest))])
        both = values.view(2, -1, *rest)
        both = torch.cat([both, both.new_zeros((2, padding // 2, *rest))], dim=1)
        panels = both.view(2, self.num_panels, _HALF, *rest).transpose(0, 1)
        return panels.reshape(self.num_panels * PANEL, *rest)

    def _put_words(self, weight: torch.Tensor) -> None:
        outputs, inputs = weight.shape
        is_bf16 = weight.dtype == torch.bfloat16
        count, lanes = (2, _HALF) if self._halves else (1, PANEL)
        for half in range(count):
            part = weight[half * outputs // count : (half + 1) * outputs // count]
            self._library.pack(
                is_bf16, part.data_ptr(), part.shape[0], inputs, inputs, 0, half * lanes, lanes,
                self.address,
            )  # fmt: skip

    def _put_bytes(self, weight: torch.Tensor, per_word: int, words: int, form: int) -> None:
        values, scales = quantize_weight(weight)
        padding = words * per_word - values.shape[1]
        values = self._in_panels(torch.nn.functional.pad(values, (0, padding)))
        self.scales = self._in_panels(scales)
        if form == INTEGERS:  # rows come 128 too large, so as to be unsigned
            excess = values.sum(dim=1, dtype=torch.int32) * 128
            self.scales = torch.cat([self.scales, excess.view(torch.float32)])
        panels = values.view(self.num_panels, PANEL, words, per_word).transpose(1, 2).contiguous()
        ctypes.memmove(self.address, panels.data_ptr(), self.num_bytes)


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
