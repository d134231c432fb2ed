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
from headrace.workers.quantized.tensor import InputOrder, QuantizedTensor, row_bytes

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
        return QuantizedTensor(self.format, self.shape, rows, self._order)

    @cached_property
    def obstacle(self) -> str:
        """Why the weight cannot be in blocks; empty if it can."""
        starts = np.repeat(self._block_groups, BLOCK)[: self.shape[1]]
        if not np.array_equal(starts, self._ordered_groups):
            return "of groups that are no multiples of 32 inputs"
        if not _fit_float16(self.scales):
            return "with scales that 16 bits cannot hold"
        return ""

    @cached_property
    def format(self) -> str:
        if self.bits <= 4:
            return "q4_0" if self._is_symmetric else "q4_1"
        return "q8_0" if self._is_symmetric else "q8_m"

    @cached_property
    def _order(self) -> InputOrder | None:
        """The inputs sorted by groups, which GPTQ's act-order mixes; None if they are."""
        if bool((np.diff(self.groups) >= 0).all()):
            return None
        return np.argsort(self.groups, kind="stable").astype(np.int32)

    @cached_property
    def _ordered_groups(self) -> npt.NDArray[np.int64]:
        return self.groups if self._order is None else self.groups[self._order]

    @property
    def _block_groups(self) -> npt.NDArray[np.int64]:
        """The group of each block."""
        return self._ordered_groups[::BLOCK]

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
        groups = self._block_groups
        scales = self._scales(rows)
        parts = [_halves(scales[:, groups])]
        if not self._is_symmetric:  # what is added to a weight
            stored = self._zeros(rows) - (self._half if self.bits > 4 else 0)
            parts.append(_halves((-scales * stored)[:, groups]))
        codes = self.codes(rows) if self._order is None else self.codes(rows)[:, self._order]
        codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % BLOCK)))
        codes = codes.reshape(len(rows), len(groups), BLOCK)
        if self.bits > 4:  # signed
            parts.append(codes - np.uint8(self._half))
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
