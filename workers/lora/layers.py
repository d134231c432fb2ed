"""Wrap a model's linear layers so that each row of a step may have an adapter of its own."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headrace.workers.attention.hook import attention_of, vocab_rows
from headrace.workers.linear.fusion import watch
from headrace.workers.linear.linears import FastLinear
from headrace.workers.lora.adapter_files import LinearShape, LoraMatrices

_PROBE_TOKENS = 13

Ranks = tuple[int, ...]  # of the adapters in a layer's slots, 0 for none


@dataclass(frozen=True, slots=True, eq=False)
class RowSpan:
    """Consecutive rows of a step whose adapters are in the slots `first` to `end` - 1.

    foreign: by the ranks of a layer's slots, which columns of these slots do not belong to a row's
        own adapter, bools [rows, sum of ranks]. None: all rows have the same adapter.
    """

    rows: slice
    first: int
    end: int
    foreign: Mapping[Ranks, Tensor] | None


class StepAdapters:
    """The adapters of the running step, shared by all layers.

    spans: rows in none of them have no adapter; None: no row has one.
    """

    def __init__(self) -> None:
        self.spans: Sequence[RowSpan] | None = None


class LoraLinear(nn.Module):
    """A linear layer with the adapters of some slots.

    The slots' matrices are concatenated, each with the rank of its adapter, so that one product
    serves rows of many adapters: rows [n, K] are multiplied with the matrices [R, K] of all slots
    in use, the columns that do not belong to a row's own adapter are set to zero, and the result is
    multiplied with the other matrices [R, N].
    """

    def __init__(self, base: nn.Module, step: StepAdapters, num_slots: int) -> None:
        super().__init__()
        self.base = base
        self.shape = linear_shape(base)
        self._step = step
        self._down: Tensor | None = None  # [sum of ranks, K]
        self._up: Tensor | None = None  # [sum of ranks, N]
        self._set_ranks([0] * num_slots)

    @property
    def weight(self) -> Tensor:
        """The base layer's weight: models read its dtype and device."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> object:
        return getattr(self.base, "bias", None)

    @property
    def ranks(self) -> Ranks:
        return self._ranks

    @property
    def is_empty(self) -> bool:
        return self._down is None and self._up is None

    def put(self, slot: int, matrices: LoraMatrices | None) -> None:
        """Put an adapter's matrices, on the layer's device, into a slot; None empties it."""
        if matrices is None and not self._ranks[slot]:
            return
        down, up = self._down, self._up
        if down is None or up is None:
            empty = torch.empty(0, dtype=self.shape.dtype, device=self.weight.device)
            down, up = empty.view(0, self.shape.inputs), empty.view(0, self.shape.outputs)
        new = LoraMatrices(down[:0], up[:0]) if matrices is None else matrices
        start, end = self._starts[slot : slot + 2]
        self._down = torch.cat([down[:start], new.down, down[end:]])
        self._up = torch.cat([up[:start], new.up, up[end:]])
        ranks = list(self._ranks)
        ranks[slot] = new.down.shape[0]
        self._set_ranks(ranks)

    def clear(self) -> None:
        """Empty all slots and free their memory."""
        self._down = self._up = None
        self._set_ranks([0] * len(self._ranks))

    def forward(self, input: Tensor) -> Tensor:
        """Compute [..., K] → [..., N]."""
        output: Tensor = self.base(input)
        spans = self._step.spans
        if spans is None or self._down is None or self._up is None:
            return output
        rows = input.reshape(-1, self.shape.inputs)
        results = output.view(-1, self.shape.outputs)  # modified in place: must not be a copy
        for span in spans:
            columns = slice(self._starts[span.first], self._starts[span.end])
            if columns.start < columns.stop:
                foreign = None if span.foreign is None else span.foreign[self._ranks]
                down, up = self._down[columns], self._up[columns]
                add_products(results[span.rows], rows[span.rows], down, up, foreign)
        return output

    def _set_ranks(self, ranks: Sequence[int]) -> None:
        self._ranks: Ranks = tuple(ranks)
        self._starts = list(accumulate(ranks, initial=0))


def add_products(
    results: Tensor, rows: Tensor, down: Tensor, up: Tensor, foreign: Tensor | None
) -> None:
    """Add rows [n, K] @ down.T [K, R] @ up [R, N] to the results [n, N].

    foreign: the elements [n, R] of the inner product to set to zero; None: none.
    """
    inner = functional.linear(rows.to(down.dtype), down)
    if foreign is not None:
        # Not a product with zero: an overflow in one adapter's product would become NaN in the rows
        # of the others.
        inner.masked_fill_(foreign, 0.0)
    if results.dtype == up.dtype:
        results.addmm_(inner, up)
    else:
        results.add_(inner @ up)


def wrap_layers(
    model: PreTrainedModel, step: StepAdapters, num_slots: int
) -> dict[str, LoraLinear]:
    """Wrap the linear layers that adapters may change, and return them by name.

    These are inside the model's repeated layers and run once in a forward pass for each token: not
    an expert of a mixture, which gets only some of the tokens.
    """
    layers = dict(adaptable_layers(model))
    with torch.no_grad(), attention_of(model, "eager"), watch(layers.values()) as calls:
        token_ids = torch.arange(_PROBE_TOKENS, device=model.device) % vocab_rows(model)
        takes = inspect.signature(model.forward).parameters
        options = {"use_cache": False} if "use_cache" in takes else {}
        model(input_ids=token_ids.unsqueeze(0), **options)
    rows: dict[nn.Module, list[int]] = {}
    for call in calls:
        rows.setdefault(call.layer, []).append(call.rows.numel() // call.rows.shape[-1])
    del calls
    wrapped = {}
    for name, layer in layers.items():
        if rows.get(layer) == [_PROBE_TOKENS]:
            wrapped[name] = LoraLinear(layer, step, num_slots)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, wrapped[name])
    return wrapped


def adaptable_layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Yield the names and modules of the linear layers inside a model's repeated layers."""
    inside = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D | FastLinear) and name.startswith(inside):
            yield name, module


def linear_shape(layer: nn.Module) -> LinearShape:
    """Return the shape of a linear layer and the dtype that its adapters must have."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    outputs, inputs = weight.t().shape if isinstance(layer, Conv1D) else weight.shape
    # On CPUs a product with so few columns is several times faster in 32 bits: oneDNN's preparation
    # of one in 16 bits takes longer than the product.
    dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
    return LinearShape(inputs, outputs, dtype)
