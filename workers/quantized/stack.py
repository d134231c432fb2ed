"""The weights of a layer's experts in the blocks of a file, and their place in a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headrace.workers.quantized.tensor import QuantizedTensor

_ATTRIBUTE = "_headrace_stack"


@dataclass(frozen=True, eq=False)
class QuantizedStack:
    """Weights [experts, outputs, inputs] in blocks, all in the same format.

    matrices: each expert's, one after the other by outputs: two are of a gate and of its partner.
    transposed: whether the model has them as [experts, inputs, outputs].
    interleaved: whether in the model outputs of two matrices take turns.
    """

    matrices: Sequence[Sequence[QuantizedTensor]]
    transposed: bool = False
    interleaved: bool = False

    @property
    def format(self) -> str:
        return self.matrices[0][0].format

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the model's tensor."""
        first = self.matrices[0]
        outputs, inputs = sum(part.shape[0] for part in first), first[0].shape[1]
        each = (inputs, outputs) if self.transposed else (outputs, inputs)
        return (len(self.matrices), *each)

    def expert(self, number: int, half: int | None, interleaved: bool) -> QuantizedTensor:
        """Return an expert's weight; or that of its gate (half 0) or partner (half 1), whose
        outputs are halves of all, or take turns if they are interleaved.

        Raises ValueError if the outputs lie in several matrices.
        """
        parts = self.matrices[number]
        if len(parts) == 2 and half is not None and interleaved == self.interleaved:
            return parts[half]
        if len(parts) > 1:
            raise ValueError("outputs of one weight lie in several")
        if half is None:
            return parts[0]
        count = parts[0].shape[0] // 2
        rows = slice(half, None, 2) if interleaved else slice(half * count, (half + 1) * count)
        return parts[0].take(rows)

    def dequantize(self, number: int, dtype: torch.dtype) -> torch.Tensor:
        """Return an expert's weights in a dtype, as the model has them."""
        parts = [part.dequantize(dtype=dtype) for part in self.matrices[number]]
        whole = torch.stack(parts, 1).flatten(0, 1) if self.interleaved else torch.cat(parts)
        return whole.t() if self.transposed else whole


def stack_matrices(matrix: QuantizedTensor, experts: int) -> list[QuantizedTensor]:
    """Return each expert's matrix of those that are stored as one [experts * outputs, inputs]."""
    count = matrix.shape[0] // experts
    return [matrix.take(slice(n * count, (n + 1) * count)) for n in range(experts)]


def attach_stack(parameter: torch.Tensor, stack: QuantizedStack | None) -> None:
    """Make `stack_of` find the weights of a parameter, whose own values are never read."""
    setattr(parameter, _ATTRIBUTE, stack)


def stack_of(parameter: torch.Tensor) -> QuantizedStack | None:
    """Return the weights that `attach_stack` set; None: the parameter has values of its own."""
    found = getattr(parameter, _ATTRIBUTE, None)
    assert found is None or isinstance(found, QuantizedStack)
    return found
