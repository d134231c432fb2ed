"""Weights of 8-bit floats with a scale for all numbers, for outputs, or for squares of both."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.converted_rows import Rows
from headrace.workers.quantized.packed_layers import TensorFiles
from headrace.workers.quantized.rounded_tensor import RoundedTensor, rounded_tensor

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_GREATEST = 448.0  # e4m3's
_LEAST_SCALE, _GREATEST_SCALE = 2.0**-14, 2.0**15  # of blocks, which 16 bits hold well
_INTEGERS = 127


@dataclass(frozen=True, eq=False)
class Float8Weight:
    """A weight as a file has it.

    values: [outputs, inputs] of 8-bit floats. scales: float32 [parts of outputs, parts of inputs].
    squares: outputs and inputs that have a scale in common.
    """

    values: torch.Tensor
    scales: torch.Tensor
    squares: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        outputs, inputs = self.values.shape
        return outputs, inputs

    def numbers(self, rows: Rows) -> torch.Tensor:
        """Return the numbers of some outputs, float32 [outputs, inputs]."""
        chosen = torch.from_numpy(rows)
        codes = self.values.view(torch.uint8).numpy()[rows]
        values = torch.from_numpy(_table(self.values.dtype).take(codes))  # 4 times torch's speed
        scales = self.scales[chosen // self.squares[0]]
        if scales.shape[1] > 1:
            scales = scales.repeat_interleave(self.squares[1], 1)[:, : values.shape[1]]
        return values.mul_(scales)

    def quantized(self) -> RoundedTensor | None:
        """Return the weight in blocks; None if the scales of these do not fit in 16 bits."""
        greatest = float(self.scales.abs().max()) * _GREATEST / _INTEGERS
        if greatest < _LEAST_SCALE or greatest > _GREATEST_SCALE:
            return None
        return rounded_tensor(self.shape, self.numbers)

    def expanded(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight in a float type."""
        return rounded_tensor(self.shape, self.numbers).dequantize(dtype=dtype)


@functools.cache
def _table(dtype: torch.dtype) -> npt.NDArray[np.float32]:
    """Return the number of each code [256]."""
    return torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()


def float8_weight(files: TensorFiles, stem: str, squares: tuple[int, int]) -> Float8Weight:
    """Return a layer's weight.

    squares: outputs and inputs that have a scale in common, where scales are fewer than both.

    Raises KeyError if there are no scales, and ValueError if they are of another number.
    """
    values = files.tensor(f"{stem}.weight")
    scales = files.optional(f"{stem}.weight_scale_inv")
    if scales is None:
        scales = files.tensor(f"{stem}.weight_scale")
    scales = scales.float()
    if scales.ndim < 2:
        scales = scales.reshape(-1, 1)
    sizes = [
        _part_size(stem, total, count, square)
        for total, count, square in zip(values.shape, scales.shape, squares, strict=True)
    ]
    return Float8Weight(values, scales, (sizes[0], sizes[1]))


def _part_size(stem: str, total: int, count: int, square: int) -> int:
    """Return how many outputs, or inputs, of `total` have one of `count` scales in common."""
    if count == 1:
        return max(1, total)
    if count == total:
        return 1
    if -(-total // square) != count:
        raise ValueError(f"{stem}: {count} scales for {total} numbers in squares of {square}")
    return square
