"""Weights packed into panels for the kernels (see src/gemm.h)."""

import ctypes
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from workers.native.library import PANEL, kernels
from workers.native.lower import INTEGERS, WORDS
from workers.quantization import quantize_weight

_HALF = PANEL // 2


class WeightMemory:
    """Memory for packed weights, taken from the system in large pieces; freed with this object.

    A piece for each weight would waste half a huge page on each.
    """

    _PIECE_BYTES = 64 * 1024 * 1024
    _ALIGNMENT = 64

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = self._end = 0
        self.num_bytes = 0

    def take(self, num_bytes: int) -> int:
        """The address of so many zeroed bytes. MemoryError if there are none."""
        size = -(-num_bytes // self._ALIGNMENT) * self._ALIGNMENT
        with self._lock:
            if self._next + size > self._end:
                self._add_piece(max(size, self._PIECE_BYTES))
            address = self._next
            self._next += size
            self.num_bytes += num_bytes
        return address

    def _add_piece(self, num_bytes: int) -> None:
        library = kernels()
        assert library is not None
        address = library.allocate(num_bytes)
        if not address:
            raise MemoryError("no memory for the weights")
        weakref.finalize(self, library.free, address, num_bytes)
        self._next, self._end = address, address + num_bytes


class Panels:
    """One packed weight.

    form: WORDS, or one of the two kinds of 8-bit weights (see workers.native.lower).
    outputs: of the product; for a gate and its partner, of both.
    bias: [outputs in whole panels], in the order of the panels; None if there is none.
    scales: of 8-bit weights, as the kernels read them; None for others.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        dtype: torch.dtype,
        form: int,
        halves: bool,
        memory: WeightMemory,
    ) -> None:
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
        self.address = memory.take(self.num_bytes)
        if form == WORDS:
            self._put_words(weight.to(dtype).contiguous())
        else:
            self._put_bytes(weight, per_word, words, form)

    @classmethod
    def of(
        cls,
        parts: Sequence[dict[str, Any]],
        dtype: torch.dtype,
        form: int,
        halves: bool,
        memory: WeightMemory,
    ) -> "Panels":
        """Several linears that read the same inputs, their outputs one after another.

        halves: these are a gate and its partner; panels then hold 16 outputs of one and the same 16
        of the other.
        """
        weights = [_weight(part) for part in parts]
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        panels = cls(whole, dtype, form, halves, memory)
        biases = [_bias(part) for part in parts]
        if any(bias is not None for bias in biases):
            given = [
                torch.zeros(len(weight)) if bias is None else bias.float()
                for weight, bias in zip(weights, biases, strict=True)
            ]
            panels.bias = panels.in_panels(torch.cat(given)).contiguous()
        return panels

    def in_panels(self, values: torch.Tensor) -> torch.Tensor:
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
        values = self.in_panels(torch.nn.functional.pad(values, (0, padding)))
        self.scales = self.in_panels(scales)
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
