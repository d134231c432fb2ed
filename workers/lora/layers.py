"""A model's linear layers, wrapped so that each row of a step may have an adapter of its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headrace.workers.attention.hook import attention_of, vocab_rows
from headrace.workers.linear.linears import FastLinear
from headrace.workers.linear.fusion import watch
from headrace.workers.lora.adapter_files import LinearShape, LoraMatrices

_PROBE_TOKENS = 13

Ranks = tuple[int, ...]  # of the adapters in a layer's slots, 0 for none


@dataclass(frozen=True, slots=True, eq=False)
class RowSpan:
    """Consecutive rows of a step, and the slots of their adapters: from `first` to before `end`.

    others: for the ranks that layers have, the columns of these slots that are not of a row's own
        adapter, [rows, sum of ranks] of bools. None: all rows have the only adapter.
    """

    rows: slice
    first: int
    end: int
    foreign: Mapping[Ranks, Tensor] | None


class StepAdapters:
    """What all layers know of the step that is being run. parts: rows in none of them have no
    adapter; None: no row has one."""

    def __init__(self) -> None:
        self.parts: Sequence[RowSpan] | None = None


class LoraLinear(nn.Module):
    """A linear layer and what the adapters in some slots add to it.

    The slots' matrices lie one below the other, each with the rank that its adapter has, so that
    one product serves rows of many adapters: rows [n, K] are multiplied with the matrices [R, K] of
    all slots in use, what is not of a row's own adapter becomes zero, and the rest is multiplied
    with their other matrices [R, N].
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
        """The layer's own: models ask it for dtype and device."""
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

    def put(self, slot: int, pair: LoraMatrices | None) -> None:
        """Let a slot have an adapter's matrices, which are on the layer's device; None: none."""
        if pair is None and not self._ranks[slot]:
            return
        down, up = self._down, self._up
        if down is None or up is None:
            empty = torch.empty(0, dtype=self.shape.dtype, device=self.weight.device)
            down, up = empty.view(0, self.shape.inputs), empty.view(0, self.shape.outputs)
        new = LoraMatrices(down[:0], up[:0]) if pair is None else pair
        start, end = self._starts[slot : slot + 2]
        self._down = torch.cat([down[:start], new.down, down[end:]])
        self._up = torch.cat([up[:start], new.up, up[end:]])
        ranks = list(self._ranks)
        ranks[slot] = new.down.shape[0]
        self._set_ranks(ranks)

    def clear(self) -> None:
        """Have nothing in any slot, and give their memory back."""
        self._down = self._up = None
        self._set_ranks([0] * len(self._ranks))

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] → [..., N]."""
        output: Tensor = self.base(input)
        parts = self._step.parts
        if parts is None or self._down is None or self._up is None:
            return output
        rows = input.reshape(-1, self.shape.inputs)
        results = output.view(-1, self.shape.outputs)  # written to: must be no copy
        for part in parts:
            columns = slice(self._starts[part.first], self._starts[part.end])
            if columns.start < columns.stop:
                foreign = None if part.foreign is None else part.foreign[self._ranks]
                down, up = self._down[columns], self._up[columns]
                add_products(results[part.rows], rows[part.rows], down, up, foreign)
        return output

    def _set_ranks(self, ranks: Sequence[int]) -> None:
        self._ranks: Ranks = tuple(ranks)
        self._starts = list(accumulate(ranks, initial=0))


def add_products(
    results: Tensor, rows: Tensor, down: Tensor, up: Tensor, foreign: Tensor | None
) -> None:
    """Add rows [n, K] @ down.T [K, R] @ up [R, N] to the results [n, N], in between without what
    `foreign` [n, R] marks."""
    inner = functional.linear(rows.to(down.dtype), down)
    if foreign is not None:
        # Not multiplied by zero: what overflows in one adapter's product would become NaN in the
        # rows of others.
        inner.masked_fill_(foreign, 0.0)
    if results.dtype == up.dtype:
        results.addmm_(inner, up)
    else:
        results.add_(inner @ up)


def wrap_layers(model: PreTrainedModel, step: StepAdapters, num_slots: int) -> dict[str, LoraLinear]:
    """Wrap the linear layers that adapters may change, by their names in the model.

    These are inside the model's repeated layers, and run once in a forward pass for each token: an
    expert of a mixture, which gets some of the tokens, is not among them.
    """
    found = dict(adaptable_layers(model))
    with torch.no_grad(), attention_of(model, "eager"), watch(found.values()) as calls:
        token_ids = torch.arange(_PROBE_TOKENS, device=model.device) % vocab_rows(model)
        model(input_ids=token_ids.unsqueeze(0), use_cache=False)
    rows: dict[nn.Module, list[int]] = {}
    for call in calls:
        rows.setdefault(call.layer, []).append(call.rows.numel() // call.rows.shape[-1])
    del calls
    wrapped = {}
    for name, layer in found.items():
        if rows.get(layer) == [_PROBE_TOKENS]:
            wrapped[name] = LoraLinear(layer, step, num_slots)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, wrapped[name])
    return wrapped


def adaptable_layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers inside a model's repeated layers, by name."""
    inside = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D | FastLinear) and name.startswith(inside):
            yield name, module


def linear_shape(layer: nn.Module) -> LinearShape:
    """What adapters of a linear layer are to be like."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    outputs, inputs = weight.t().shape if isinstance(layer, Conv1D) else weight.shape
    # On CPUs a product with so few columns is several times faster in 32 bits: what oneDNN does
    # before one in 16 bits takes longer than the product.
    dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
    return LinearShape(inputs, outputs, dtype)
