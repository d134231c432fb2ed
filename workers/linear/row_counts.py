"""Run products with few different numbers of rows.

oneDNN compiles code for each number of rows that it has not seen, and keeps the code as long as the
process lives: half a megabyte for each product and number, without bound where prompts have ever
new lengths. So rows are padded with zeros to one of some dozens of numbers.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_STEPS_PER_DOUBLING = 8  # at most an eighth is padding
_SMALL_STEP = 4  # so few rows take no time of their own: the weight's bytes do
_MATMULS = (torch.mm, torch.matmul, Tensor.matmul, Tensor.__matmul__)
# What functional.grouped_mm calls; torch 2.8 has neither on CPUs.
_GROUPED = getattr(torch, "_grouped_mm", None)


def round_up_rows(count: int) -> int:
    """Return the number of rows, at least `count`, with which products are run."""
    if count <= _SMALL_STEP:
        return count if count < 2 else 1 << (count - 1).bit_length()
    step = 1 << max(0, (count - 1).bit_length() - _STEPS_PER_DOUBLING.bit_length())
    step = max(_SMALL_STEP, step)
    return -(-count // step) * step


def with_rounded_rows(product: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Compute a product of rows [..., K], padded to a rounded number: [..., N]."""
    count = rows.shape[:-1].numel()
    padding = round_up_rows(count) - count
    if not padding:
        return product(rows)
    flat = functional.pad(rows.reshape(count, rows.shape[-1]), (0, 0, 0, padding))
    output = product(flat)[:count]
    return output.view(*rows.shape[:-1], output.shape[-1])


def round_other_products(model: nn.Module, layer_types: tuple[type[nn.Module], ...]) -> int:
    """Round the rows of what is left on torch's 16-bit products; return the number of modules.

    These are small linear layers, and experts, which get ever other numbers of rows. layer_types:
    modules that need nothing. In 32 bits torch calls MKL, which keeps nothing.
    """
    chosen = [m for m in model.modules() if _multiplies(m) and not isinstance(m, layer_types)]
    for module in chosen:
        module.forward = _within_mode(module.forward)
    return len(chosen)


class RoundedRows(TorchFunctionMode):
    """Rounds the rows that are multiplied with weights [N, K] or groups of them in the context."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is functional.linear and args:
            return with_rounded_rows(lambda rows: func(rows, *args[1:], **options), args[0])
        if func in _MATMULS and len(args) == 2 and args[1].dim() == 2 and not options:
            return with_rounded_rows(lambda rows: func(rows, args[1]), args[0])
        if func is torch.addmm and len(args) == 3 and args[0].dim() == 1 and not options:
            return with_rounded_rows(lambda rows: func(args[0], rows, args[2]), args[1])
        if func is _GROUPED and len(args) == 2 and _is_plain(args[1], options):
            return _grouped_product(args[0], args[1], options["offs"])
        return func(*args, **options)


def _grouped_product(rows: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Multiply groups of rows [S, K], which end at the offsets, with a weight [K, N] each."""
    output = rows.new_zeros((len(rows), weights.shape[2]))
    for weight, group in zip(weights, _groups(offsets), strict=True):
        if group.start < group.stop:
            part = rows[group]
            output[group] = with_rounded_rows(lambda part, by=weight: part @ by, part)  # type: ignore[misc]
    return output


def _is_plain(weights: Tensor, options: Mapping[str, Any]) -> bool:
    """Return whether a grouped product has a weight for each group and no other option."""
    offsets = options.get("offs")
    others = {value for name, value in options.items() if name != "offs"}
    return offsets is not None and weights.dim() == 3 and others <= {None, weights.dtype}


def _groups(offsets: Tensor) -> Iterator[slice]:
    start = 0
    for end in offsets.tolist():
        yield slice(start, end)
        start = end


def _multiplies(module: nn.Module) -> bool:
    """Return whether a module multiplies with 16-bit weights of its own."""
    if isinstance(module, nn.Embedding):
        return False
    own = module.parameters(recurse=False)
    return any(p.dim() > 1 and p.dtype in (torch.bfloat16, torch.float16) for p in own)


def _within_mode(forward: Callable[..., Any]) -> Callable[..., Any]:
    mode = RoundedRows()

    @wraps(forward)
    def rounded(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return forward(*args, **kwargs)

    return rounded
