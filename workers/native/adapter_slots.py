"""LoRA adapters of a compiled program: which have a place, and what the kernels read of them.

See src/adapters.h. The program's products are of several layers at once (queries, keys and values,
or a gate and its partner), and so are the matrices here.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.workers.lora.adapter_files import Adapter, LinearShape
from headrace.workers.lora.lru_slots import LruSlots
from headrace.workers.lora.store import AdapterStore
from headrace.workers.native.library import PANEL_OUTPUTS, CAdapter
from headrace.workers.native.packed_weight import PackedWeight
from headrace.workers.sequence.sequence import Chunk

NO_ADAPTER = -1  # the slot of rows without adapter


@dataclass(frozen=True, slots=True)
class LayerSlice:
    """Outputs of a layer of the model: `count` of them from `first` on."""

    layer: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class AdaptedLinear:
    """One product of the program. pieces: whose outputs it gives, one after another.
    panels: its weight, whose order the outputs take. dtype: of the products."""

    slices: tuple[LayerSlice, ...]
    panels: PackedWeight
    dtype: torch.dtype

    def matrices(self, adapter: Adapter) -> tuple[Tensor, Tensor] | None:
        """What an adapter adds to it: down [rank, inputs], up [panels, rank, PANEL]; None: nothing.

        The rank is the sum of the layers', each of which changes its own outputs alone.
        """
        layers = dict.fromkeys(p.layer for p in self.slices if p.layer in adapter.matrices)
        if not layers:
            return None
        downs = [adapter.matrices[layer].down for layer in layers]
        ups = [torch.cat([self._up_for(adapter, slice_, layer) for slice_ in self.slices], dim=1)
               for layer in layers]  # fmt: skip
        outputs = self.panels.to_panel_order(torch.cat(ups).t())
        up = outputs.view(-1, PANEL_OUTPUTS, outputs.shape[1]).transpose(1, 2)
        return torch.cat(downs).to(self.dtype).contiguous(), up.to(self.dtype).contiguous()

    def _up_for(self, adapter: Adapter, slice_: LayerSlice, layer: str) -> Tensor:
        """What a layer's matrix adds to a piece: nothing, if that is another's."""
        up = adapter.matrices[layer].up
        if slice_.layer != layer:
            return up.new_zeros((len(up), slice_.count))
        return up[:, slice_.first : slice_.first + slice_.count]


class NativeAdapterSlots:
    """Room for some adapters in a program. store: where those are found that a step needs."""

    def __init__(
        self, linears: Sequence[AdaptedLinear], shapes: Mapping[str, LinearShape], num_slots: int
    ) -> None:
        self.store: AdapterStore | None = None
        self.shapes = dict(shapes)
        self._linears = linears
        self._lru = LruSlots[Adapter](num_slots, self._fill)
        self._referenced: list[list[Tensor]] = [[] for _ in range(num_slots)]  # what the table points to
        self._table = (CAdapter * (len(linears) * num_slots))()
        self.num_slots, self.max_rank = num_slots, 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing of any adapter is in memory, besides what the store has."""
        return not any(self._referenced)

    @property
    def table(self) -> int:
        """The address of what the kernels read: [linears, slots]."""
        return ctypes.addressof(self._table)

    def clear(self) -> None:
        """Give their memory back; they fill again as they are needed."""
        for slot in self._lru.clear():
            self._empty(slot)

    def row_slots(self, chunks: Sequence[Chunk], order: Sequence[int]) -> Tensor | None:
        """The slot of each row of the chunks in that order, [rows]; None if none has an adapter."""
        names = [chunks[number].sequence.request.adapter for number in order]
        if not any(names):
            return None
        if self.store is None:
            raise RuntimeError("there are no adapters")
        slots = self._lru.load({name: self.store[name] for name in names if name})
        counts = torch.tensor([chunks[number].count for number in order])
        chunk_slots = torch.tensor([slots.get(name, NO_ADAPTER) for name in names], dtype=torch.int32)
        return chunk_slots.repeat_interleave(counts)

    def _fill(self, slot: int, adapter: Adapter) -> None:
        self._empty(slot)
        for number, linear in enumerate(self._linears):
            found = linear.matrices(adapter)
            if found is not None:
                down, up = found
                self._referenced[slot] += found
                self._table[number * self.num_slots + slot] = CAdapter(
                    len(down), down.data_ptr(), up.data_ptr()
                )
        self.max_rank = max(entry.rank for entry in self._table)

    def _empty(self, slot: int) -> None:
        for number in range(len(self._linears)):
            self._table[number * self.num_slots + slot] = CAdapter(0, None, None)
        self._referenced[slot] = []
