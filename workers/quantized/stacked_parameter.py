"""A parameter of a layer's experts whose numbers are in a file's blocks; see `PackedParameter`."""

from typing import cast

import torch
from torch import Tensor, nn

from headrace.workers.quantized.parameter import PackedParameter, Special, are_products_skipped
from headrace.workers.quantized.stack import QuantizedStack, attach_stack, stack_of

_aten = torch.ops.aten


class StackedParameter(PackedParameter):
    """Matrices of experts in one tensor; one of them is expanded if no other is needed."""

    @property
    def numbers(self) -> Tensor:
        """The expanded numbers; zeros where products are skipped."""
        if are_products_skipped():
            return torch.zeros(self.shape, dtype=self.dtype)
        result = torch.empty(self.shape, dtype=self.dtype)
        stack = _source(self)
        for number in range(len(result)):
            result[number] = stack.dequantize(number, self.dtype)
        return result

    def release(self) -> None:
        """Let go of the file."""
        attach_stack(self, None)

    @property
    def stored_bytes(self) -> int:
        """The bytes that the file, or the blocks made of it, have for the numbers."""
        return sum(part.nbytes for parts in _source(self).matrices for part in parts)


def stack_parameter(stack: QuantizedStack, dtype: torch.dtype) -> nn.Parameter:
    """Return a parameter that has the weights' numbers in a dtype, and no memory of its own."""
    blank: Tensor = torch.zeros((), dtype=dtype).expand(stack.shape)
    packed = blank.as_subclass(StackedParameter)
    attach_stack(packed, stack)
    parameter = nn.Parameter(packed, requires_grad=False)
    attach_stack(parameter, stack)
    return parameter


def _source(parameter: Tensor) -> QuantizedStack:
    stack = stack_of(parameter)
    if stack is None:
        raise RuntimeError("the weights have been released")
    return stack


def _select(parameter: Tensor, dim: int, index: int) -> Tensor:
    if dim == 0 and not are_products_skipped():
        with torch.inference_mode(False):
            return _source(parameter).dequantize(index % len(parameter), parameter.dtype)
    with torch.inference_mode(False):
        numbers = cast(StackedParameter, parameter).numbers
        return cast(Tensor, _aten.select.int(numbers, dim, index))


StackedParameter.operations = {
    _aten.detach.default: Special(0, lambda parameter: parameter),
    _aten.select.int: Special(0, _select),
}
