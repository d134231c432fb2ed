"""Pack stacked experts: one packed weight for each, one after another in memory."""

from collections.abc import Sequence

import torch

from headrace.workers.native.experts.stacked_weights import StackedWeights
from headrace.workers.native.packed_blocks import PackedBlocks
from headrace.workers.native.packed_weight import ALIGNMENT, PackedWeight
from headrace.workers.native.stored_dtype import dtype_of
from headrace.workers.native.weight_format import WeightFormat

Stacked = tuple[StackedWeights, StackedWeights | None]  # with biases [experts, outputs]


class PackedExperts:
    """The packed weights of a layer's experts; for the rest see PackedWeight.

    stride: bytes from one expert to the next. bias: of all experts, one after another.
    """

    def __init__(
        self,
        parts: Sequence[Stacked],
        dtype: torch.dtype,
        weight_format: WeightFormat,
        is_gated: bool,
    ) -> None:
        """Plan the weights; see `PackedWeight.__init__`."""
        kind = PackedBlocks if weight_format.is_blocks else PackedWeight
        self._each: list[PackedWeight] = [
            kind(_expert_parts(parts, number), dtype, weight_format, is_gated)
            for number in range(parts[0][0].shape[0])
        ]
        first = self._each[0]
        self.weight_format = weight_format
        self.outputs, self.num_panels = first.outputs, first.num_panels
        self.stride = -(-first.num_bytes // ALIGNMENT) * ALIGNMENT
        self.num_bytes = self.stride * len(self._each)
        biases = [weight.bias for weight in self._each if weight.bias is not None]
        self.bias = torch.stack(biases) if biases else None

    @property
    def address(self) -> int:
        return self._each[0].address

    @property
    def scales_address(self) -> int | None:
        return self._each[0].scales_address

    @property
    def plan(self) -> tuple[object, ...]:
        return (len(self._each), *self._each[0].plan)

    def set_address(self, address: int) -> None:
        for number, weight in enumerate(self._each):
            weight.set_address(address + number * self.stride)

    def pack(self) -> None:
        for weight in self._each:
            weight.pack()

    def release_source(self) -> None:
        for weight in self._each:
            weight.release_source()


def _expert_parts(parts: Sequence[Stacked], number: int) -> list[dict[str, object]]:
    return [
        {
            "weight": weights.expert(number),
            "bias": None if biases is None else _bias(biases, number),
            "transposed": False,
        }
        for weights, biases in parts
    ]


def _bias(biases: StackedWeights, number: int) -> torch.Tensor:
    bias = biases.expert(number)
    return bias.to(dtype_of(bias))
