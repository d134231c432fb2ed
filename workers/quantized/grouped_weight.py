"""Weights of integers with a scale, and perhaps a zero point, for each group of inputs.

They become blocks of 32 inputs, which the kernels read: a group's scale is repeated in each. With
zero points (weight = scale * (code - zero)) a block has a minimum: scale * zero, in 16 bits.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.converted_rows import Bytes, ConvertedRows, Rows
from headrace.workers.quantized.formats import BLOCK
from headrace.workers.quantized.integer_codes import Codes, ReadCodes
from headrace.workers.quantized.tensor import QuantizedTensor, row_bytes

_SCALE_TOLERANCE = 2**-9  # what a scale may change where 16 bits hold it
_ROWS = 256  # whose zero points are looked at, or that are expanded, at a time


@dataclass(frozen=True, eq=False)
class GroupedWeight:
    """A weight [outputs, inputs] as a file has it.

    bits: of a code. codes: reads those of some outputs, [outputs, inputs], from 0 on.
    scales: [outputs, groups]. zeros: reads zero points; None: they are half of the range of codes.
    groups: the group of each input. zero_shift: is added to zero points.
    """

    shape: tuple[int, int]
    bits: int
    codes: ReadCodes
    scales: torch.Tensor
    groups: npt.NDArray[np.int64]
    zeros: ReadCodes | None = None
    zero_shift: int = 0

    def quantized(self) -> QuantizedTensor | None:
        """Return the weight in blocks; None if it cannot be, see `obstacle`."""
        if self.obstacle:
            return None
        size = row_bytes(self.format, self.shape[1])
        rows = ConvertedRows(self._blocks, np.arange(self.shape[0]), size)
        return QuantizedTensor(self.format, self.shape, rows)

    @cached_property
    def obstacle(self) -> str:
        """Why the weight cannot be in blocks; empty if it can."""
        starts = self.groups[::BLOCK]
        if not np.array_equal(np.repeat(starts, BLOCK)[: self.shape[1]], self.groups):
            is_ordered = bool((np.diff(self.groups) >= 0).all())
            return "of groups that are no multiples of 32 inputs" if is_ordered else "in act-order"
        if self.format not in ("q4_0", "q4_1", "q8_0"):
            return "of 8 bits with zero points"
        if not _fit_float16(self.scales):
            return "with scales that 16 bits cannot hold"
        return ""

    @cached_property
    def format(self) -> str:
        return f"q{4 if self.bits <= 4 else 8}_{0 if self._is_symmetric else 1}"

    def expanded(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight in a float type."""
        result = torch.empty(self.shape, dtype=dtype)
        for first in range(0, self.shape[0], _ROWS):
            rows = np.arange(first, min(first + _ROWS, self.shape[0]))
            scales, zeros = self._scales(rows), self._zeros(rows)
            numbers = self.codes(rows) - zeros[:, self.groups]
            result[rows] = torch.from_numpy(numbers * scales[:, self.groups]).to(dtype)
        return result

    @cached_property
    def _is_symmetric(self) -> bool:
        """Whether all zero points are half of the range, as those that are not stored."""
        outputs = np.arange(self.shape[0])
        parts = (outputs[first : first + _ROWS] for first in range(0, len(outputs), _ROWS))
        return self.zeros is None or all(
            bool((self._zeros(part) == self._half).all()) for part in parts
        )

    @property
    def _half(self) -> int:
        return 1 << self.bits - 1

    def _scales(self, rows: Rows) -> npt.NDArray[np.float32]:
        return self.scales[torch.from_numpy(rows)].float().numpy()

    def _zeros(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Return zero points [rows, groups]."""
        if self.zeros is None:
            return np.full((len(rows), self.scales.shape[1]), self._half, np.float32)
        return self.zeros(rows).astype(np.float32) + self.zero_shift

    def _blocks(self, rows: Rows) -> Bytes:
        """Return the bytes [rows, bytes per row] of some outputs in blocks."""
        groups = self.groups[::BLOCK]
        scales = self._scales(rows)
        parts = [_halves(scales[:, groups])]
        if not self._is_symmetric:  # what is added to a weight
            parts.append(_halves((-scales * self._zeros(rows))[:, groups]))
        codes = self.codes(rows)
        codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % BLOCK)))
        codes = codes.reshape(len(rows), len(groups), BLOCK)
        if self.bits > 4:
            parts.append(codes ^ np.uint8(128) if self.bits == 8 else codes - np.uint8(self._half))
        else:
            parts.append(_nibbles(codes + np.uint8(8 - self._half if self._is_symmetric else 0)))
        return np.concatenate(parts, axis=2).reshape(len(rows), -1)


def _halves(numbers: npt.NDArray[np.float32]) -> Bytes:
    """Return the bytes [..., 2] of numbers in 16 bits."""
    return numbers.astype(np.float16)[..., None].view(np.uint8)


def _nibbles(codes: Codes) -> Bytes:
    return codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << np.uint8(4)


def _fit_float16(scales: torch.Tensor) -> bool:
    if scales.dtype == torch.float16:
        return True
    exact = scales.float()
    return bool(((exact.half().float() - exact).abs() <= exact.abs() * _SCALE_TOLERANCE).all())
