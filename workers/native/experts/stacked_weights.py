"""The weights of a layer's experts, as the model has them in one tensor or files in blocks."""

from dataclasses import dataclass

import torch

from headrace.workers.native.stored_dtype import dtype_of, stand_for
from headrace.workers.quantized.stack import stack_of
from headrace.workers.quantized.tensor import attach_quantized


@dataclass(frozen=True, slots=True)
class Layout:
    """How experts' weights are stored.

    transposed: whether they are [experts, inputs, outputs].
    interleaved: whether outputs of the gate and of its partner take turns.
    """

    transposed: bool
    interleaved: bool

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a view of stacked weights as [experts, outputs, inputs]."""
        return weight.transpose(1, 2) if self.transposed else weight

    def halves(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of the gate and of its partner in [experts, outputs, ...]."""
        if self.interleaved:
            return values[:, ::2], values[:, 1::2]
        half = values.shape[1] // 2
        return values[:, :half], values[:, half:]


@dataclass(frozen=True, slots=True, eq=False)
class StackedWeights:
    """Weights [experts, outputs, inputs] of a tensor of the model.

    half: which outputs: 0 the gate's, 1 its partner's; None: all.
    """

    tensor: torch.Tensor
    layout: Layout
    half: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        experts, outputs, inputs = self.tensor.shape
        if self.layout.transposed:
            outputs, inputs = inputs, outputs
        return experts, outputs if self.half is None else outputs // 2, inputs

    def expert(self, number: int) -> torch.Tensor:
        """Return one expert's [outputs, inputs]; `quantized_of` finds those in blocks."""
        stack = stack_of(self.tensor)
        if stack is not None:
            weight = stack.expert(number, self.half, self.layout.interleaved)
            values: torch.Tensor = torch.zeros(()).expand(weight.shape)
            attach_quantized(values, weight)
            return values
        # One by one: the dtype that a tensor stands for is not that of its views.
        matrix = self.layout.matrix(self.tensor[number : number + 1])
        if self.half is not None:
            matrix = self.layout.halves(matrix)[self.half]
        return stand_for(matrix[0], dtype_of(self.tensor))
