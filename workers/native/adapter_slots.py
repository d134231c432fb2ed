"""Slots for the LoRA adapters of a compiled program, and the matrices that the kernels read.

See src/lora_operations.h. One product of the program may compute several layers (queries, keys and
values, or a gate and its partner); so does a pair of matrices here.
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

NO_ADAPTER = -1  # the slot of rows without an adapter


@dataclass(frozen=True, slots=True)
class LayerSlice:
    """`count` outputs of a layer of the model, starting at `first`."""

    layer: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class AdaptedLinear:
    """One product of the program that adapters may change.

    slices: the layers whose outputs it computes, in their order.
    weight: its packed weight, whose order the outputs have.
    dtype: of the products.
    """

    slices: tuple[LayerSlice, ...]
    weight: PackedWeight
    dtype: torch.dtype

    def matrices(self, adapter: Adapter) -> tuple[Tensor, Tensor] | None:
        """Return an adapter's matrices for this product; None if it does not change the product.

        These are down [rank, inputs] and up [panels, rank, PANEL_OUTPUTS]. The rank is the sum of
        the layers' ranks; each layer changes only its own outputs.
        """
        layers = dict.fromkeys(part.layer for part in self.slices if part.layer in adapter.matrices)
        if not layers:
            return None
        downs = [adapter.matrices[layer].down for layer in layers]
        ups = [torch.cat([self._up_for(adapter, part, layer) for part in self.slices], dim=1)
               for layer in layers]  # fmt: skip
        outputs = self.weight.to_panel_order(torch.cat(ups).t())
        up = outputs.view(-1, PANEL_OUTPUTS, outputs.shape[1]).transpose(1, 2)
        return torch.cat(downs).to(self.dtype).contiguous(), up.to(self.dtype).contiguous()

    def _up_for(self, adapter: Adapter, part: LayerSlice, layer: str) -> Tensor:
        """Return a layer's up matrix for a slice's outputs; zeros for another layer's slice."""
        up = adapter.matrices[layer].up
        if part.layer != layer:
            return up.new_zeros((len(up), part.count))
        return up[:, part.first : part.first + part.count]


class NativeAdapterSlots:
    """Slots for adapters in a program. store: the adapters that steps may need."""

    def __init__(
        self, linears: Sequence[AdaptedLinear], shapes: Mapping[str, LinearShape], num_slots: int
    ) -> None:
        self.store: AdapterStore | None = None
        self.shapes = dict(shapes)
        self._linears = linears
        self._lru = LruSlots[Adapter](num_slots, self._fill)
        # Keeps alive the matrices that the table points to.
        self._referenced: list[list[Tensor]] = [[] for _ in range(num_slots)]
        self._table = (CAdapter * (len(linears) * num_slots))()
        self.num_slots, self.max_rank = num_slots, 0

    @property
    def is_empty(self) -> bool:
        """Whether no slot holds an adapter."""
        return not any(self._referenced)

    @property
    def table(self) -> int:
        """The address of the table that the kernels read: [linears, slots]."""
        return ctypes.addressof(self._table)

    def clear(self) -> None:
        """Empty all slots and free their memory; they fill again as steps need adapters."""
        for slot in self._lru.clear():
            self._empty(slot)

    def row_slots(self, chunks: Sequence[Chunk], order: Sequence[int]) -> Tensor | None:
        """Return the slot of each row of the chunks in this order [rows]; None without adapters."""
        return self.slots_of(
            [chunks[number].sequence.request.adapter for number in order],
            [chunks[number].count for number in order],
        )

    def slots_of(self, names: Sequence[str], counts: Sequence[int]) -> Tensor | None:
        """Return the slot of each row [rows]; None without adapters.

        names: of the adapters of consecutive rows; "" for none. counts: of these rows.
        """
        if not any(names):
            return None
        if self.store is None:
            raise RuntimeError("this program has no adapters")
        slots = self._lru.load({name: self.store[name] for name in names if name})
        of_runs = [slots.get(name, NO_ADAPTER) for name in names]
        return torch.tensor(of_runs, dtype=torch.int32).repeat_interleave(torch.tensor(counts))

    def _fill(self, slot: int, adapter: Adapter) -> None:
        self._empty(slot)
        for number, linear in enumerate(self._linears):
            matrices = linear.matrices(adapter)
            if matrices is not None:
                down, up = matrices
                self._referenced[slot] += matrices
                self._table[number * self.num_slots + slot] = CAdapter(
                    len(down), down.data_ptr(), up.data_ptr()
                )
        self.max_rank = max(entry.rank for entry in self._table)

    def _empty(self, slot: int) -> None:
        for number in range(len(self._linears)):
            self._table[number * self.num_slots + slot] = CAdapter(0, None, None)
        self._referenced[slot] = []
