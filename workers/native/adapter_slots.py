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
from headrace.workers.lora.lru_slots import LeastUsed
from headrace.workers.lora.store import AdapterStore
from headrace.workers.native.library import PANEL, CAdapter
from headrace.workers.native.packed_weight import PackedWeight
from headrace.workers.sequence.sequence import Chunk

NONE = -1  # the slot of rows without adapter


@dataclass(frozen=True, slots=True)
class Piece:
    """Outputs of a layer of the model: `count` of them from `first` on."""

    layer: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class AdaptedLinear:
    """One product of the program. pieces: whose outputs it gives, one after another.
    panels: its weight, whose order the outputs take. dtype: of the products."""

    pieces: tuple[Piece, ...]
    panels: PackedWeight
    dtype: torch.dtype

    def matrices(self, adapter: Adapter) -> tuple[Tensor, Tensor] | None:
        """What an adapter adds to it: down [rank, inputs], up [panels, rank, PANEL]; None: nothing.

        The rank is the sum of the layers', each of which changes its own outputs alone.
        """
        layers = dict.fromkeys(p.layer for p in self.pieces if p.layer in adapter.pairs)
        if not layers:
            return None
        downs = [adapter.pairs[layer].down for layer in layers]
        ups = [torch.cat([self._up(adapter, piece, layer) for piece in self.pieces], dim=1)
               for layer in layers]  # fmt: skip
        outputs = self.panels.in_panels(torch.cat(ups).t())
        up = outputs.view(-1, PANEL, outputs.shape[1]).transpose(1, 2)
        return torch.cat(downs).to(self.dtype).contiguous(), up.to(self.dtype).contiguous()

    def _up(self, adapter: Adapter, piece: Piece, layer: str) -> Tensor:
        """What a layer's matrix adds to a piece: nothing, if that is another's."""
        up = adapter.pairs[layer].up
        if piece.layer != layer:
            return up.new_zeros((len(up), piece.count))
        return up[:, piece.first : piece.first + piece.count]


class NativeAdapterSlots:
    """Room for some adapters in a program. store: where those are found that a step needs."""

    def __init__(
        self, linears: Sequence[AdaptedLinear], shapes: Mapping[str, LinearShape], num_slots: int
    ) -> None:
        self.store: AdapterStore | None = None
        self.shapes = dict(shapes)
        self._linears = linears
        self._places = LeastUsed[Adapter](num_slots, self._fill)
        self._kept: list[list[Tensor]] = [[] for _ in range(num_slots)]  # what the table points to
        self._table = (CAdapter * (len(linears) * num_slots))()
        self.num_slots, self.max_rank = num_slots, 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing of any adapter is in memory, besides what the store has."""
        return not any(self._kept)

    @property
    def table(self) -> int:
        """The address of what the kernels read: [linears, slots]."""
        return ctypes.addressof(self._table)

    def clear(self) -> None:
        """Give their memory back; they fill again as they are needed."""
        for slot in self._places.clear():
            self._empty(slot)

    def row_slots(self, chunks: Sequence[Chunk], order: Sequence[int]) -> Tensor | None:
        """The slot of each row of the chunks in that order, [rows]; None if none has an adapter."""
        names = [chunks[number].sequence.request.adapter for number in order]
        if not any(names):
            return None
        if self.store is None:
            raise RuntimeError("there are no adapters")
        slots = self._places.bring({name: self.store[name] for name in names if name})
        counts = torch.tensor([chunks[number].count for number in order])
        of_chunks = torch.tensor([slots.get(name, NONE) for name in names], dtype=torch.int32)
        return of_chunks.repeat_interleave(counts)

    def _fill(self, slot: int, adapter: Adapter) -> None:
        self._empty(slot)
        for number, linear in enumerate(self._linears):
            found = linear.matrices(adapter)
            if found is not None:
                down, up = found
                self._kept[slot] += found
                self._table[number * self.num_slots + slot] = CAdapter(
                    len(down), down.data_ptr(), up.data_ptr()
                )
        self.max_rank = max(entry.rank for entry in self._table)

    def _empty(self, slot: int) -> None:
        for number in range(len(self._linears)):
            self._table[number * self.num_slots + slot] = CAdapter(0, None, None)
        self._kept[slot] = []
