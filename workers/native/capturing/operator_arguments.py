"""Check that a captured operator has no argument that the capture would ignore.

An ignored argument would silently be missing from the program; see
headrace.workers.native.capturing.capture.
"""

from collections.abc import Sequence
from typing import Any

import torch

from headrace.workers.native.graph import NotStatic

# By operator, the arguments that the capture handles or that do not change the numbers.
_HANDLED = {
    "embedding": {"weight", "indices", "padding_idx", "scale_grad_by_freq", "sparse"},
    "addmm": {"self", "mat1", "mat2"},
    "_to_copy": {"self", "dtype", "layout", "device", "pin_memory", "non_blocking"},
    "clone": {"self"},
    "contiguous": {"self"},
    "index": {"self", "indices"},
    "neg": {"self"},
    "cat": {"tensors", "dim"},
    "div": {"self", "other"},
    "mul": {"self", "other"},
    "add": {"self", "other"},
    "sub": {"self", "other"},
    "copy_": {"self", "src"},
    "silu": {"self"},
    "gelu": {"self", "approximate"},
    "relu": {"self"},
    "sigmoid": {"self"},
    "tanh": {"self"},
}
_ROW_MAJOR = (torch.contiguous_format, torch.preserve_format)


def check_arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Check a call's arguments; raises NotStatic if an unhandled one differs from its default."""
    handled = _HANDLED.get(func.overloadpacket.__name__)
    if handled is None:
        raise NotStatic(f"it uses {func}")
    declared = func._schema.arguments
    given = dict(zip((argument.name for argument in declared), args, strict=False)) | kwargs
    for argument in declared:
        name = argument.name
        if name not in given or name in handled:
            continue
        if name == "memory_format" and given[name] in _ROW_MAJOR:
            continue
        if not argument.has_default_value() or given[name] != argument.default_value:
            raise NotStatic(f"it uses {func} with {name}={given[name]}")


def single_tensor(
    module: torch.nn.Module, args: Sequence[Any], kwargs: dict[str, Any]
) -> torch.Tensor:
    """Return the tensor that a module is called with; raises NotStatic for any other arguments."""
    values = (*args, *kwargs.values())
    if len(values) != 1 or not isinstance(values[0], torch.Tensor):
        raise NotStatic(f"it calls {type(module).__name__} with more than one tensor")
    return values[0]
