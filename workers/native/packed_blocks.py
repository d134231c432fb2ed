"""Pack weights in quantized blocks into panels for the kernels (see src/quantized_formats.h)."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.native.library import PANEL_OUTPUTS
from headrace.workers.native.packed_weight import PackedWeight, quantized_part, weight_of
from headrace.workers.native.stored_dtype import dtype_of
from headrace.workers.quantized.blocks import read_blocks
from headrace.workers.quantized.decoder_library import pack_rows
from headrace.workers.quantized.encode import quantize
from headrace.workers.quantized.formats import BLOCK
from headrace.workers.quantized.panels import pack_panels, panel_bytes
from headrace.workers.quantized.tensor import row_bytes

_CHUNK_ELEMENTS = 1024 * 1024  # packed at a time, so that what is between stays in the cache


class PackedBlocks(PackedWeight):
    """A packed weight in quantized blocks: those of a file, or of floats, rounded here."""

    @property
    def blocks(self) -> int:
        """The number of blocks in a row, as the kernels read it."""
        return -(-self._inputs // BLOCK)

    def _plan_memory(self) -> None:
        self.num_bytes = self.num_panels * panel_bytes(self._name, self.blocks)

    def set_address(self, address: int) -> None:
        """Set the address of the weight's memory: num_bytes, aligned to 64 bytes."""
        self.address = address

    def pack(self) -> None:
        """Write the packed weight to its address."""
        memory = (ctypes.c_uint8 * self.num_bytes).from_address(self.address)
        panels = np.ctypeslib.as_array(memory).reshape(self.num_panels, -1)
        # The row of each output of the panels; -1 for those that fill up the last one.
        order = self.to_panel_order(torch.arange(1, self.outputs + 1)).numpy() - 1
        step = max(1, _CHUNK_ELEMENTS // (PANEL_OUTPUTS * self._inputs))
        for first in range(0, self.num_panels, step):
            rows = order[first * PANEL_OUTPUTS : (first + step) * PANEL_OUTPUTS]
            data, to = self._read(rows), panels[first : first + step]
            if not pack_rows(self._name, data, to):
                pack_panels(read_blocks(self._name, data), to)

    @property
    def _name(self) -> str:
        return self.weight_format.name.lower()

    def _read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the bytes of some rows; those of row -1 are zeros."""
        data = np.zeros((len(rows), row_bytes(self._name, self._inputs)), np.uint8)
        start = 0
        for part in self._parts:
            count = len(weight_of(part))
            taken = (rows >= start) & (rows < start + count)
            if taken.any():
                data[taken] = self._bytes_of(part, rows[taken] - start)
            start += count
        return data

    def _bytes_of(self, part: dict[str, Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        quantized = quantized_part(part)
        if quantized is not None and not quantized.is_float:
            return np.asarray(quantized.take(rows).data)
        floats = (
            weight_of(part)[torch.from_numpy(rows)].to(dtype_of(part["weight"]))
            if quantized is None
            else quantized.take(rows).dequantize()
        )
        return np.asarray(quantize(self._name, floats).data)
