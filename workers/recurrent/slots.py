"""Slots for the states of sequences and their snapshots, and how a step's sequences see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch

from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.recurrent.layer_states import LayerStates, StateKey
from headrace.workers.sequence.state_use import StateUse
from headrace.workers.transfers import upload


@dataclass(frozen=True, slots=True)
class StateShape:
    """A state of one sequence."""

    size: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return prod(self.size) * self.dtype.itemsize


class StateTensors:
    """The states of all layers, for a number of slots.

    They are not zeroed: no slot is read before it is written.
    """

    def __init__(
        self, shapes: Mapping[StateKey, StateShape], num_slots: int, device: torch.device
    ) -> None:
        self.device = device
        self.tensors = {
            key: torch.empty((num_slots, *shape.size), dtype=shape.dtype, device=device)
            for key, shape in shapes.items()
        }

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy slots to others: all are read before one is written."""
        if not sources:
            return
        rows = upload([sources, targets], torch.long, self.device)
        for tensor in self.tensors.values():
            tensor.index_copy_(0, rows[1], tensor.index_select(0, rows[0]))


class AdjacentSlots(LayerStates):
    """The states of sequences in adjacent slots, read and written in place.

    begins: whether the sequences begin, so that they have no state yet.
    """

    def __init__(self, slots: StateTensors, first: int, count: int, *, begins: bool) -> None:
        super().__init__()
        self._tensors, self._range = slots.tensors, slice(first, first + count)
        self._begins = begins

    def read(self, key: StateKey) -> torch.Tensor | None:
        return None if self._begins else self._tensors[key][self._range]

    def write(self, key: StateKey, state: torch.Tensor) -> None:
        self._tensors[key][self._range].copy_(state)

    def finish_layer(self) -> None:
        """Do nothing: what a layer has changed in place is in the slots."""


class ScatteredSlots(LayerStates):
    """The states of sequences in any slots, gathered for each layer."""

    def __init__(self, slots: StateTensors, numbers: Sequence[int]) -> None:
        super().__init__()
        self._tensors = slots.tensors
        self._numbers = upload(numbers, torch.long, slots.device)
        self._gathered: dict[StateKey, torch.Tensor] = {}

    def read(self, key: StateKey) -> torch.Tensor | None:
        state = self._tensors[key].index_select(0, self._numbers)
        self._gathered[key] = state
        return state

    def write(self, key: StateKey, state: torch.Tensor) -> None:
        tensor = self._tensors[key]
        tensor.index_copy_(0, self._numbers, state.to(tensor.dtype))
        self._gathered.pop(key, None)

    def finish_layer(self) -> None:
        """Write the states back that the layer has read and may have changed in place."""
        for key, state in list(self._gathered.items()):
            self.write(key, state)


@dataclass(frozen=True, slots=True)
class StepPart:
    """Adjacent rows of a step that recurrent layers run at once.

    num_rows: as many sequences of one row each if `is_batch`, else the rows of one sequence.
    order: of the batch's rows, so that their slots are adjacent, and `inverse`; None: as they are.
    """

    first_row: int
    num_rows: int
    is_batch: bool
    states: AdjacentSlots | ScatteredSlots
    order: torch.Tensor | None = None
    inverse: torch.Tensor | None = None


class StepStates(LayerStates):
    """What a model gets as its cache; its recurrent layers get those of the step's parts instead
    (see headrace.workers.recurrent.split)."""

    def __init__(self, slots: StateTensors) -> None:
        super().__init__()
        self._slots = slots
        self._saved: list[tuple[int, int]] = []
        self.parts: list[StepPart] = []
        self.num_rows = 0

    def read(self, key: StateKey) -> torch.Tensor | None:
        raise RuntimeError(f"a layer that is not split reads its state {key}")

    def write(self, key: StateKey, state: torch.Tensor) -> None:
        raise RuntimeError(f"a layer that is not split writes its state {key}")

    def begin(self, batch: AttentionBatch) -> None:
        """Prepare a step: restore snapshots, and find out which sequences run together."""
        spans = [*batch.decodes, *batch.prefills]
        uses = [_use(span) for span in spans]
        restored = [(use.restored_from, use.slot) for use in uses if use.restored_from is not None]
        self._slots.copy([source for source, _ in restored], [target for _, target in restored])
        self._saved = [(use.slot, use.saved_to) for use in uses if use.saved_to is not None]
        # Decodes are in ascending order of their lengths: those of first tokens come first.
        continued = [span for span in batch.decodes if span.context]
        alone = [*batch.decodes[: len(batch.decodes) - len(continued)]]
        parts = [self._single(span) for span in alone]
        if len(continued) == 1:
            parts.append(self._single(continued[0]))
        elif continued:
            parts.append(self._batch(continued))
        self.parts = parts + [self._single(span) for span in batch.prefills]
        self.num_rows = batch.num_rows

    def end(self) -> None:
        """Save the snapshots of a step that has run."""
        self._slots.copy([source for source, _ in self._saved], [slot for _, slot in self._saved])
        self._saved = []

    def _single(self, span: Span) -> StepPart:
        states = AdjacentSlots(self._slots, _use(span).slot, 1, begins=span.context == 0)
        return StepPart(span.first_row, span.num_rows, False, states)

    def _batch(self, spans: Sequence[Span]) -> StepPart:
        numbers = [_use(span).slot for span in spans]
        first, count = spans[0].first_row, len(spans)
        order = sorted(range(count), key=numbers.__getitem__)
        if any(numbers[b] - numbers[a] != 1 for a, b in pairwise(order)):
            return StepPart(first, count, True, ScatteredSlots(self._slots, numbers))
        adjacent = AdjacentSlots(self._slots, numbers[order[0]], count, begins=False)
        if order == list(range(count)):
            return StepPart(first, count, True, adjacent)
        inverse = sorted(range(count), key=order.__getitem__)
        rows = upload([order, inverse], torch.long, self._slots.device)
        return StepPart(first, count, True, adjacent, rows[0], rows[1])


def _use(span: Span) -> StateUse:
    assert span.state is not None, "a chunk without a slot for its state"
    return span.state
