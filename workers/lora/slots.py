"""Which adapters are where the model is run, and which rows of a step are whose.

After Punica (Chen et al. 2023, arXiv 2310.18547) and S-LoRA (Sheng et al. 2023, arXiv 2311.03285):
the base model runs once for all rows, whatever their adapters, which wait in the host's memory and
are brought to the device when a step needs them.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from contextlib import contextmanager
from itertools import groupby

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.lora.adapter_files import Adapter, LinearShape, LoraMatrices
from headrace.workers.lora.layers import LoraLinear, RowSpan, Ranks, StepAdapters, wrap_layers
from headrace.workers.lora.lru_slots import LruSlots
from headrace.workers.lora.store import AdapterStore
from headrace.workers.sequence.sequence import Chunk
from headrace.workers.transfers import upload_tensor, upload

NO_ADAPTER = -1  # the slot of rows without adapter
LONG_RUN = 16  # rows


class AdapterSlots:
    """Room for some adapters on a model's device; who has not been used for longest goes first.

    Slots are filled when a step needs their adapter, and keep it until another takes its place,
    even if it has been removed meanwhile. store: where adapters are found.
    """

    def __init__(self, layers: Mapping[str, LoraLinear], step: StepAdapters, num_slots: int) -> None:
        self.store: AdapterStore | None = None
        self._layers = layers
        self._step = step
        self._lru = LruSlots[Adapter](num_slots, self._fill)
        self._columns: dict[Ranks, torch.Tensor] = {}  # whose slot each column of layers is

    @classmethod
    def of(cls, model: PreTrainedModel, num_slots: int) -> "AdapterSlots":
        """Empty slots for a model, whose layers are wrapped."""
        step = StepAdapters()
        return cls(wrap_layers(model, step, num_slots), step, num_slots)

    @property
    def shapes(self) -> dict[str, LinearShape]:
        """The layers that adapters may change."""
        return {name: layer.shape for name, layer in self._layers.items()}

    @property
    def is_empty(self) -> bool:
        """Whether nothing of any adapter is on the device."""
        return all(layer.is_empty for layer in self._layers.values())

    def max_bytes(self, max_rank: int) -> int:
        """Memory of the slots when all hold as much as they may."""
        shapes = self.shapes.values()
        width = sum((each.inputs + each.outputs) * each.dtype.itemsize for each in shapes)
        return width * max_rank * len(self._lru)

    def clear(self) -> None:
        """Give their memory back; they fill again as they are needed."""
        for layer in self._layers.values():
            layer.clear()
        self._lru.clear()
        self._columns = {}

    @contextmanager
    def applied(self, chunks: Items[Chunk], order: Items[int]) -> Iterator[None]:
        """Within, a forward pass of the chunks' rows, in that order, has their adapters."""
        names = [chunks[number].sequence.request.adapter for number in order]
        if not any(names):
            yield
            return
        try:
            slots = self._load(sorted({name for name in names if name}))
            counts = [chunks[number].count for number in order]
            runs = [(slots.get(name, NO_ADAPTER), n) for name, n in zip(names, counts, strict=True)]
            self._step.parts = [self._row_span(*some) for some in split_rows(runs)]
            yield
        finally:
            self._step.parts = None

    def _load(self, names: list[str]) -> dict[str, int]:
        """The adapters' slots, with them in these."""
        if self.store is None:
            raise RuntimeError("there are no adapters")
        return self._lru.load({name: self.store[name] for name in names})

    def _fill(self, slot: int, adapter: Adapter) -> None:
        for name, layer in self._layers.items():
            pair = adapter.matrices.get(name)
            if pair is not None:
                device = layer.weight.device
                pair = LoraMatrices(upload_tensor(pair.down, device), upload_tensor(pair.up, device))
            layer.put(slot, pair)
        self._map_columns()

    def _map_columns(self) -> None:
        self._columns = {}
        for layer in self._layers.values():
            if layer.ranks not in self._columns:
                owners = [slot for slot, rank in enumerate(layer.ranks) for _ in range(rank)]
                columns = upload(owners, torch.long, layer.weight.device)
                self._columns[layer.ranks] = columns

    def _row_span(self, start: int, slots: list[int]) -> RowSpan:
        """Of rows from `start` on, by the slot of each."""
        rows = slice(start, start + len(slots))
        used = {slot for slot in slots if slot != NO_ADAPTER}
        first, end = min(used), max(used) + 1
        if len(set(slots)) == 1:
            return RowSpan(rows, first, end, None)
        foreign = {}
        for ranks, columns in self._columns.items():
            of_range = columns[sum(ranks[:first]) : sum(ranks[:end])]
            of_rows = upload(slots, torch.long, columns.device).unsqueeze(1)
            foreign[ranks] = of_rows != of_range
        return RowSpan(rows, first, end, foreign)


def split_rows(runs: Items[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """A step's rows in parts: the first row of each, and the slots of its rows.

    runs: slots and for how many rows each. A long run, as of a prompt, is a part of its own, so
    that its rows are multiplied with one adapter instead of all; without an adapter, it is in no
    part. Short ones, as of decodes, share a part: a product for each would take longer.
    """
    start, short = 0, list[int]()
    for slot, group in groupby(runs, key=lambda run: run[0]):
        count = sum(n for _, n in group)
        if count < LONG_RUN:
            short += [slot] * count
            continue
        if any(each != NO_ADAPTER for each in short):
            yield start, short
        start += len(short)
        if slot != NO_ADAPTER:
            yield start, [slot] * count
        start, short = start + count, []
    if any(each != NO_ADAPTER for each in short):
        yield start, short
