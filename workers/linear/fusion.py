"""Fuse linear layers that read the same tensor, found by watching a forward pass.

A model calls its query, key and value projections one after the other on one tensor. The first call
computes all of them and keeps the others' shares until they are requested: the model's code stays
unchanged, and a product with one tall weight replaces several small ones.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, nn, split_with_sizes

from headrace.workers.linear.products import Product


class FusedProduct:
    """One product that computes several layers.

    Shares are returned only for the very tensor object that they were computed from. The tensor is
    held until all shares are taken, so that no other object can get its identity meanwhile.
    """

    def __init__(self, product: Product, sizes: Sequence[int]) -> None:
        self._product = product
        self._sizes = list(sizes)
        self._input: Tensor | None = None
        self._shares: list[Tensor | None] = [None] * len(self._sizes)

    def share_of(self, number: int, rows: Tensor) -> Tensor:
        """Return the output [..., sizes[number]] of layer `number` for rows [..., K]."""
        share = self._shares[number] if rows is self._input else None
        if share is None:
            self._shares = [*split_with_sizes(self._product(rows), self._sizes, -1)]
            self._input = rows
            share = self._shares[number]
            assert share is not None
        self._shares[number] = None
        if all(other is None for other in self._shares):
            self._input = None
        return share


@dataclass(frozen=True, eq=False)
class LayerCall:
    """A call of a layer. version: how often its input had been modified in place before."""

    layer: nn.Module
    rows: Tensor
    version: int


@contextmanager
def watch(layers: Iterable[nn.Module]) -> Iterator[list[LayerCall]]:
    """Collect the layers' calls, in order. Not in inference mode: its tensors have no version."""
    calls: list[LayerCall] = []

    def note(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], Tensor):
            calls.append(LayerCall(layer, arguments[0], arguments[0]._version))

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(note).remove)
        yield calls


def find_groups(
    calls: Sequence[LayerCall], alike: Callable[[nn.Module], object]
) -> list[list[nn.Module]]:
    """Group the called layers that can be computed at once; each layer is in one group.

    Those are called one after the other, only once each, on the same tensor in the same state, and
    have equal values of `alike`.
    """
    counts: dict[nn.Module, int] = {}
    for call in calls:
        counts[call.layer] = counts.get(call.layer, 0) + 1
    groups: list[list[nn.Module]] = []
    for _, run in groupby(calls, lambda call: (id(call.rows), call.version, alike(call.layer))):
        layers = [call.layer for call in run]
        once = [layer for layer in layers if counts[layer] == 1]
        groups += [once] if once else []
    return groups + [[layer] for layer, count in counts.items() if count > 1]


@contextmanager
def strided_outputs(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let the layers return slices of wider tensors, with gaps between the rows."""

    def make_strided(_layer: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
        wide = output.new_empty((*output.shape[:-1], 2 * output.shape[-1]))
        return wide[..., : output.shape[-1]].copy_(output)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(make_strided).remove)
        yield
