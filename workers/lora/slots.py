"""Which adapters are where the model is run, and which rows of a step are whose.

After Punica (Chen et al. 2023, arXiv 2310.18547) and S-LoRA (Sheng et al. 2023, arXiv 2311.03285):
the base model runs once for all rows, whatever their adapters, which wait in the host's memory and
are brought to the device when a step needs them.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from contextlib import contextmanager

import torch
from transformers.modeling_utils import PreTrainedModel

from workers.lora.files import Adapter, LayerShape, Pair
from workers.lora.layers import LoraLinear, Ranks, Step, slot_columns, wrap_layers
from workers.lora.store import AdapterStore
from workers.sequence import Chunk
from workers.uploads import send, upload


class Slots:
    """Room for some adapters on a model's device; who has not been used for longest goes first.

    Slots are filled when a step needs their adapter. store: where that is found.
    """

    def __init__(self, layers: Mapping[str, LoraLinear], step: Step, num_slots: int) -> None:
        self.store: AdapterStore | None = None
        self._layers = layers
        self._step = step
        self._held: list[Adapter | None] = [None] * num_slots
        self._used: list[int] = [0] * num_slots  # in which step, counted by _steps
        self._steps = 0
        self._range: tuple[int, int] | None = None  # of slots that the layers use
        self._columns: dict[Ranks, torch.Tensor] = {}  # whose each column is, in that range

    @classmethod
    def of(cls, model: PreTrainedModel, num_slots: int) -> "Slots":
        """Empty slots for a model, whose layers are wrapped."""
        step = Step()
        return cls(wrap_layers(model, step, num_slots), step, num_slots)

    @property
    def shapes(self) -> dict[str, LayerShape]:
        """The layers that adapters may change."""
        return {name: layer.shape for name, layer in self._layers.items()}

    def largest_bytes(self, max_rank: int) -> int:
        """Memory of the slots when all hold as much as they may."""
        shapes = self.shapes.values()
        width = sum((each.inputs + each.outputs) * each.dtype.itemsize for each in shapes)
        return width * max_rank * len(self._held)

    def clear(self) -> None:
        """Give their memory back; they fill again as they are needed."""
        for layer in self._layers.values():
            layer.clear()
        self._held = [None] * len(self._held)
        self._forget_range()

    @contextmanager
    def applied(self, chunks: Items[Chunk], order: Items[int]) -> Iterator[None]:
        """Within, a forward pass of the chunks' rows, in that order, has their adapters."""
        names = [chunks[number].sequence.request.adapter for number in order]
        if not any(names):
            yield
            return
        try:
            slots = self._bring(sorted({name for name in names if name}))
            counts = [chunks[number].count for number in order]
            rows = [
                slots.get(name, -1) for name, n in zip(names, counts, strict=True) for _ in range(n)
            ]
            self._use(min(slots.values()), max(slots.values()) + 1)
            self._step.others = self._others(rows, is_one=len(set(rows)) == 1)
            yield
        finally:
            self._step.others = None

    def _bring(self, names: list[str]) -> dict[str, int]:
        """The adapters' slots, with them in these."""
        if self.store is None:
            raise RuntimeError("there are no adapters")
        self._steps += 1
        wanted = {name: self.store[name] for name in names}
        slots = {}
        for name, adapter in wanted.items():
            if adapter in self._held:
                slots[name] = self._held.index(adapter)
                self._used[slots[name]] = self._steps
        for name in wanted.keys() - slots.keys():
            slots[name] = self._oldest()
            self._fill(slots[name], wanted[name])
        return slots

    def _oldest(self) -> int:
        slot = min(range(len(self._held)), key=self._used.__getitem__)
        if self._used[slot] == self._steps:
            raise RuntimeError(f"a step has more than {len(self._held)} adapters")
        return slot

    def _fill(self, slot: int, adapter: Adapter) -> None:
        # Should this raise, the slot holds neither.
        self._held[slot] = None
        self._forget_range()
        for name, layer in self._layers.items():
            pair = adapter.pairs.get(name)
            if pair is not None:
                device = layer.weight.device
                pair = Pair(send(pair.down, device), send(pair.up, device))
            layer.put(slot, pair)
        self._held[slot] = adapter
        self._used[slot] = self._steps

    def _forget_range(self) -> None:
        self._range = None
        self._columns = {}

    def _use(self, first: int, end: int) -> None:
        """Have the layers run the slots of a range: those in use, and what is between them."""
        if self._range == (first, end):
            return
        self._forget_range()
        for layer in self._layers.values():
            ranks = layer.use(first, end)
            if ranks is not None and ranks not in self._columns:
                columns = slot_columns(ranks, first)
                self._columns[ranks] = upload(columns, torch.long, layer.weight.device)
        self._range = first, end

    def _others(self, rows: list[int], is_one: bool) -> dict[Ranks, torch.Tensor | None]:
        """See Step.others. rows: the slot of each, -1 for none. is_one: all have the same."""
        if is_one:
            return dict.fromkeys(self._columns)
        others: dict[Ranks, torch.Tensor | None] = {}
        for ranks, columns in self._columns.items():
            others[ranks] = upload(rows, torch.long, columns.device).unsqueeze(1) != columns
        return others
