"""A parameter whose numbers are in a file's blocks and are expanded where torch needs them.

So transformers' own code runs a model whose weights stay packed, slowly, but with no more of them
expanded at once than one layer has. Programs read the packed weights instead (`quantized_of`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from headrace.workers.quantized.tensor import QuantizedTensor, attach_quantized, quantized_of

_CHUNK_ELEMENTS = 8 * 1024 * 1024  # expanded at a time
_EXPANDED = "_headrace_expanded"
_aten = torch.ops.aten


class PackedParameter(Tensor):
    """A matrix [outputs, inputs] of a file as a parameter; see `pack_parameter`."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    operations: ClassVar[Mapping[Any, "Special"]] = {}  # that need not all numbers

    @property
    def numbers(self) -> Tensor:
        """The expanded numbers."""
        return _rows(self, 0, self.shape[0])

    def release(self) -> None:
        """Let go of the file."""
        attach_quantized(self, None)

    @property
    def stored_bytes(self) -> int:
        """The bytes that the file, or the blocks made of it, have for the numbers."""
        return _source(self).nbytes

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        special = cls.operations.get(func)
        if special is not None and isinstance(args[special.index], cls):
            return special.function(*args, **(kwargs or {}))
        # What is a view of a parameter must not be an inference tensor, since that is not.
        context = torch.inference_mode(False) if func.is_view else nullcontext()
        with context:
            args, kwargs = tree_map_only(PackedParameter, expanded, (args, kwargs or {}))
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        """Return a plain parameter with the same numbers."""
        return nn.Parameter(expanded(self), requires_grad=False)


def pack_parameter(weight: QuantizedTensor, dtype: torch.dtype) -> nn.Parameter:
    """Return a parameter that has the weight's numbers in a dtype, and no memory of its own."""
    parameter = nn.Parameter(_packed(weight, dtype), requires_grad=False)
    attach_quantized(parameter, weight)
    return parameter


def _packed(weight: QuantizedTensor, dtype: torch.dtype) -> Tensor:
    blank: Tensor = torch.zeros((), dtype=dtype).expand(weight.shape)
    packed = blank.as_subclass(PackedParameter)
    attach_quantized(packed, weight)
    return packed


def expanded(parameter: Tensor) -> Tensor:
    """Return a parameter's numbers as a plain tensor; the parameter itself if it is one."""
    if not isinstance(parameter, PackedParameter):
        return parameter
    return parameter.numbers


def expand_parameters(model: nn.Module, *, keeps_floats: bool = False) -> tuple[int, float]:
    """Expand packed parameters of a model for good; return how many there were, and how many times
    as large they are now. `was_in_blocks` tells those that had been rounded.

    keeps_floats: leave those that are not in blocks.
    """
    plain: dict[int, nn.Parameter] = {}
    before = 0
    for module in model.modules():
        for name, parameter in cast(dict[str, Tensor | None], module._parameters).items():
            if isinstance(parameter, PackedParameter):
                quantized = quantized_of(parameter)
                if keeps_floats and quantized is not None and quantized.is_float:
                    continue
                key = id(parameter)
                if key not in plain:
                    before += parameter.stored_bytes
                    plain[key] = nn.Parameter(expanded(parameter), requires_grad=False)
                    if quantized is None or not quantized.is_float:
                        setattr(plain[key], _EXPANDED, True)
                module._parameters[name] = plain[key]
    return len(plain), sum(each.nbytes for each in plain.values()) / max(1, before)


def was_in_blocks(parameter: Tensor) -> bool:
    """Return whether a parameter has been expanded from blocks."""
    return getattr(parameter, _EXPANDED, False)


@contextmanager
def products_skipped() -> Iterator[None]:
    """Let linear layers with packed parameters return zeros, at once, within the context."""
    token = _skips_products.set(True)
    try:
        yield
    finally:
        _skips_products.reset(token)


def are_products_skipped() -> bool:
    """Return whether the context is one of `products_skipped`."""
    return _skips_products.get()


_skips_products = ContextVar("_skips_products", default=False)


def _source(parameter: Tensor) -> QuantizedTensor:
    weight = quantized_of(parameter)
    if weight is None:
        raise RuntimeError("the weight has been released")
    return weight


def _rows(parameter: Tensor, first: int, count: int) -> Tensor:
    """Return rows of a parameter in its dtype [count, inputs]."""
    return _source(parameter).dequantize(first, count, parameter.dtype)


def _chunks(rows: int, inputs: int) -> Iterator[tuple[int, int]]:
    size = max(1, _CHUNK_ELEMENTS // inputs)
    for start in range(0, rows, size):
        yield start, min(rows, start + size)


def _linear(x: Tensor, parameter: Tensor, bias: Tensor | None = None) -> Tensor:
    outputs, inputs = parameter.shape
    if _skips_products.get():
        return x.new_zeros((*x.shape[:-1], outputs))
    chunks = list(_chunks(outputs, inputs))
    if len(chunks) == 1:
        return nn.functional.linear(x, expanded(parameter), bias)
    result = x.new_empty((*x.shape[:-1], outputs))
    for start, stop in chunks:
        rows = _rows(parameter, start, stop - start)
        part = None if bias is None else bias[start:stop]
        result[..., start:stop] = nn.functional.linear(x, rows, part)
    return result


def _embedding(parameter: Tensor, indices: Tensor, *_: Any, **__: Any) -> Tensor:
    found, places = torch.unique(indices, return_inverse=True)
    rows = _source(parameter).take(found.numpy()).dequantize(dtype=parameter.dtype)
    return rows[places]


def _slice(
    parameter: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """Return a part of a parameter: of its rows another packed one."""
    if dim or step != 1:
        return cast(Tensor, _aten.slice.Tensor(expanded(parameter), dim, start, end, step))
    rows = slice(*slice(start, end).indices(parameter.shape[0]))
    return _packed(_source(parameter).take(rows), parameter.dtype)


class Special:
    """How an operation is done on a packed parameter, its argument of that index."""

    def __init__(self, index: int, function: Callable[..., Tensor]) -> None:
        self.index, self.function = index, function


PackedParameter.operations = {
    _aten.detach.default: Special(0, lambda parameter: parameter),
    _aten.linear.default: Special(1, _linear),
    _aten.embedding.default: Special(0, _embedding),
    _aten.slice.Tensor: Special(0, _slice),
}
