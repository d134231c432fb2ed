"""A model's linear layers, wrapped so that each row of a step may have an adapter of its own."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from workers.attention.hook import attention_of
from workers.linears import FastLinear
from workers.loading import vocab_rows
from workers.lora.files import LayerShape, Pair
from workers.siblings import watch

_PROBE_TOKENS = 13

Ranks = tuple[int, ...]


class Step:
    """What all layers know of the step that is being run.

    others: for each tuple of ranks that layers have in the slots in use, the columns that are not
        of a row's own adapter, [rows, sum of ranks] of bools; None: all of them are of all rows'.
        None instead of a mapping: no row has an adapter.
    """

    def __init__(self) -> None:
        self.others: dict[Ranks, Tensor | None] | None = None


class LoraLinear(nn.Module):
    """A linear layer and what the adapters in some slots add to it.

    The slots' matrices lie one below the other, each with the rank that its adapter has, so that
    one product serves all rows: rows [n, K] are multiplied with the matrices [R, K] of all slots
    in use, what is not of a row's own adapter becomes zero, and the rest is multiplied with their
    other matrices [R, N].
    """

    def __init__(self, base: nn.Module, step: Step, num_slots: int) -> None:
        super().__init__()
        self.base = base
        self.shape = _shape(base)
        self.ranks = [0] * num_slots
        self._step = step
        self._down: Tensor | None = None  # [sum of ranks, K]
        self._up: Tensor | None = None  # [sum of ranks, N]
        self._in_use: tuple[Ranks, Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The layer's own: models ask it for dtype and device."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> object:
        return getattr(self.base, "bias", None)

    def put(self, slot: int, pair: Pair | None) -> None:
        """Let a slot have an adapter's matrices, which are on the layer's device; None: none."""
        if pair is None and not self.ranks[slot]:
            return
        device = self.weight.device
        ends = (self.shape.inputs, self.shape.outputs)
        old = [
            torch.empty((0, end), dtype=self.shape.dtype, device=device) if all_ is None else all_
            for all_, end in zip((self._down, self._up), ends, strict=True)
        ]
        new = [each[:0] for each in old] if pair is None else [pair.down, pair.up]
        for all_, own in zip(old, new, strict=True):
            if own.shape[1] != all_.shape[1]:
                raise ValueError("the matrix is of another layer")
        self._down, self._up = (
            _with_part(all_, self.ranks, slot, own) for all_, own in zip(old, new, strict=True)
        )
        self.ranks[slot] = new[0].shape[0]
        self._in_use = None

    def use(self, first: int, end: int) -> Ranks | None:
        """Run the slots from `first` to before `end` in the next steps: their ranks, if any."""
        ranks = tuple(self.ranks[first:end])
        if self._down is None or self._up is None or not any(ranks):
            self._in_use = None
            return None
        start = sum(self.ranks[:first])
        rows = slice(start, start + sum(ranks))
        self._in_use = ranks, self._down[rows], self._up[rows]
        return ranks

    def clear(self) -> None:
        """Give the memory of all slots back."""
        self.ranks = [0] * len(self.ranks)
        self._down = self._up = self._in_use = None

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] → [..., N]."""
        output: Tensor = self.base(input)
        others = self._step.others
        if others is None or self._in_use is None:
            return output
        ranks, down, up = self._in_use
        inner = functional.linear(input.reshape(-1, input.shape[-1]), down)
        not_own = others[ranks]
        if not_own is not None:
            # Not multiplied by zero: what overflows in one adapter's product would become NaN in
            # the rows of others.
            inner = inner.masked_fill_(not_own, 0.0)
        return torch.addmm(output.reshape(-1, output.shape[-1]), inner, up).view(output.shape)


def wrap_layers(model: PreTrainedModel, step: Step, num_slots: int) -> dict[str, LoraLinear]:
    """Wrap the linear layers that adapters may change, by their names in the model.

    These are inside the model's repeated layers, and run once in a forward pass for each token: an
    expert of a mixture, which gets some of the tokens, is not among them.
    """
    found = dict(_candidates(model))
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


def slot_columns(ranks: Sequence[int], first: int) -> list[int]:
    """Whose slot each column of the slots from `first` on is."""
    return [first + number for number, rank in enumerate(ranks) for _ in range(rank)]


def _candidates(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    inside = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D | FastLinear) and name.startswith(inside):
            yield name, module


def _shape(layer: nn.Module) -> LayerShape:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    outputs, inputs = weight.t().shape if isinstance(layer, Conv1D) else weight.shape
    return LayerShape(inputs, outputs, weight.dtype)


def _with_part(all_: Tensor, sizes: Sequence[int], number: int, part: Tensor) -> Tensor:
    """A copy of a tensor [sum of sizes, ...] with one of its parts replaced."""
    start, end = list(accumulate(sizes, initial=0))[number : number + 2]
    return torch.cat([all_[:start], part, all_[end:]])
