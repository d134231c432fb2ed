"""Adapter slots on a model's device, and the assignment of a step's rows to them.

After Punica (Chen et al. 2023, arXiv 2310.18547) and S-LoRA (Sheng et al. 2023, arXiv 2311.03285):
the base model runs once for all rows, whatever their adapters. Adapters stay in the host's memory
and are copied to the device when a step needs them.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from contextlib import contextmanager
from itertools import groupby

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.lora.adapter_files import Adapter, LinearShape, LoraMatrices
from headrace.workers.lora.layers import LoraLinear, Ranks, RowSpan, StepAdapters, wrap_layers
from headrace.workers.lora.lru_slots import LruSlots
from headrace.workers.lora.store import AdapterStore
from headrace.workers.sequence.sequence import Chunk
from headrace.workers.transfers import upload, upload_tensor

NO_ADAPTER = -1  # the slot of rows without an adapter
LONG_RUN = 16  # rows from which a run gets products of its own


class AdapterSlots:
    """Slots for adapters on a model's device, reused in least-recently-used order.

    A slot is filled when a step needs its adapter and keeps it until another adapter takes the
    slot, even if the adapter has been removed meanwhile. store: the adapters that steps may need.
    """

    def __init__(
        self, layers: Mapping[str, LoraLinear], step: StepAdapters, num_slots: int
    ) -> None:
        self.store: AdapterStore | None = None
        self.num_slots = num_slots
        self._layers = layers
        self._step = step
        self._lru = LruSlots[Adapter](num_slots, self._fill)
        self._columns: dict[Ranks, torch.Tensor] = {}  # by a layer's ranks, the slot of each column

    @classmethod
    def of(cls, model: PreTrainedModel, num_slots: int) -> "AdapterSlots":
        """Wrap the model's layers and return empty slots for them."""
        step = StepAdapters()
        return cls(wrap_layers(model, step, num_slots), step, num_slots)

    @property
    def shapes(self) -> dict[str, LinearShape]:
        """The layers that adapters may change, by name."""
        return {name: layer.shape for name, layer in self._layers.items()}

    @property
    def is_empty(self) -> bool:
        """Whether no adapter is on the device."""
        return all(layer.is_empty for layer in self._layers.values())

    def max_bytes(self, max_rank: int) -> int:
        """Return the size of the slots if every adapter has the largest rank."""
        shapes = self.shapes.values()
        bytes_per_rank = sum((s.inputs + s.outputs) * s.dtype.itemsize for s in shapes)
        return bytes_per_rank * max_rank * len(self._lru)

    def clear(self) -> None:
        """Empty all slots and free their memory; they fill again as steps need adapters."""
        for layer in self._layers.values():
            layer.clear()
        self._lru.clear()
        self._columns = {}

    @contextmanager
    def applied(self, chunks: Items[Chunk], order: Items[int]) -> Iterator[None]:
        """Apply the chunks' adapters to forward passes of their rows, in that order."""
        names = [chunks[number].sequence.request.adapter for number in order]
        with self.applied_to(names, [chunks[number].count for number in order]):
            yield

    @contextmanager
    def applied_to(self, names: Items[str], counts: Items[int]) -> Iterator[None]:
        """Apply adapters to forward passes; those of consecutive rows, and how many these are."""
        if not any(names):
            yield
            return
        try:
            slots = self._load(sorted({name for name in names if name}))
            runs = [(slots.get(name, NO_ADAPTER), n) for name, n in zip(names, counts, strict=True)]
            self._step.spans = [self._row_span(*span) for span in split_rows(runs)]
            yield
        finally:
            self._step.spans = None

    def _load(self, names: list[str]) -> dict[str, int]:
        """Load the adapters into slots and return these."""
        if self.store is None:
            raise RuntimeError("this runner has no adapters")
        return self._lru.load({name: self.store[name] for name in names})

    def _fill(self, slot: int, adapter: Adapter) -> None:
        for name, layer in self._layers.items():
            matrices = adapter.matrices.get(name)
            if matrices is not None:
                device = layer.weight.device
                matrices = LoraMatrices(
                    upload_tensor(matrices.down, device), upload_tensor(matrices.up, device)
                )
            layer.put(slot, matrices)
        self._map_columns()

    def _map_columns(self) -> None:
        self._columns = {}
        for layer in self._layers.values():
            if layer.ranks not in self._columns:
                owners = [slot for slot, rank in enumerate(layer.ranks) for _ in range(rank)]
                columns = upload(owners, torch.long, layer.weight.device)
                self._columns[layer.ranks] = columns

    def _row_span(self, start: int, slots: list[int]) -> RowSpan:
        """Return the span of the rows from `start` on with these slots."""
        rows = slice(start, start + len(slots))
        used = {slot for slot in slots if slot != NO_ADAPTER}
        first, end = min(used), max(used) + 1
        if len(set(slots)) == 1:
            return RowSpan(rows, first, end, None)
        foreign = {}
        for ranks, columns in self._columns.items():
            column_slots = columns[sum(ranks[:first]) : sum(ranks[:end])]
            row_slots = upload(slots, torch.long, columns.device).unsqueeze(1)
            foreign[ranks] = row_slots != column_slots
        return RowSpan(rows, first, end, foreign)


def split_rows(runs: Items[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """Split a step's rows into spans; yield the first row of each and the slots of its rows.

    runs: slots, and the number of rows of each. A long run, such as a prompt, is a span of its own,
    so that its rows are multiplied with one adapter instead of all; without an adapter it is in no
    span. Short runs, such as decodes, share a span: a product for each would take longer.
    """
    start, short = 0, list[int]()
    for slot, group in groupby(runs, key=lambda run: run[0]):
        count = sum(n for _, n in group)
        if count < LONG_RUN:
            short += [slot] * count
            continue
        if any(used != NO_ADAPTER for used in short):
            yield start, short
        start += len(short)
        if slot != NO_ADAPTER:
            yield start, [slot] * count
        start, short = start + count, []
    if any(used != NO_ADAPTER for used in short):
        yield start, short
