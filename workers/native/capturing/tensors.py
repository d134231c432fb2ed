"""Find out what a pass does with tensors: their storages, and modules that are called with them."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from headrace.workers.native.graph import NotStatic


def distance_in_row(distance: int, rows: int, inner: int) -> int:
    """Convert a distance in storage [outer, rows, inner] to one in a row [outer, inner]."""
    outer, remainder = divmod(distance, rows * inner)
    if remainder >= inner and inner > 0:
        raise NotStatic("it mixes the rows of different tokens")
    return outer * inner + remainder


def tensors_in(args: Any) -> Iterator[torch.Tensor]:
    for value in args:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def shares_storage(outputs: Any, args: Any) -> bool:
    """Return whether several outputs are all views of one of the arguments (a split)."""
    if not isinstance(outputs, list | tuple):
        return False
    starts = {value.untyped_storage().data_ptr() for value in tensors_in(args)}
    return all(output.untyped_storage().data_ptr() in starts for output in tensors_in(outputs))


def depends_on_positions(module: torch.nn.Module) -> bool:
    """Return whether a module computes tables from positions: it has no weights and takes
    `position_ids`."""
    if any(True for _ in module.parameters()) or any(True for _ in module.children()):
        return False
    return "position_ids" in inspect.signature(type(module).forward).parameters


@contextmanager
def patched(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
