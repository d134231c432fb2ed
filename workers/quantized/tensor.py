"""A weight in the blocks of a file, and its place in a model.

Formats are named as in llama.cpp, in lower case. Every row (output) of a weight is a number of
whole blocks, so that rows can be taken, left out and reordered without a look into the blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.blocks import Blocks, read_blocks
from headrace.workers.quantized.converted_rows import Bytes, ConvertedRows
from headrace.workers.quantized.decoder_library import decode_rows
from headrace.workers.quantized.formats import BLOCK_FORMATS, FLOAT_FORMATS

InputOrder = npt.NDArray[np.int32]

_ATTRIBUTE = "_headrace_quantized"
_CHUNK_ELEMENTS = 1024 * 1024  # decoded at a time, so that what is between stays in the cache


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A weight [outputs, inputs] of a file, in the file's own bytes or in blocks made of them.

    format: its name as in llama.cpp, in lower case: "q4_k", "q8_0", "bf16", ...
    shape: (outputs, inputs); rows are padded with zeros to whole blocks.
    data: the bytes [outputs, bytes per row], usually mapped from the file, or converted where they
        are read.
    order: which input each of a row's stored numbers is of, of those in blocks; None: the inputs
        follow one another.
    """

    format: str
    shape: tuple[int, int]
    data: Bytes | ConvertedRows
    order: InputOrder | None = None

    def __post_init__(self) -> None:
        """Check the bytes' shape. Raises ValueError if the format is unknown or they do not fit."""
        expected = (self.shape[0], row_bytes(self.format, self.shape[1]))
        if self.data.shape != expected or self.data.dtype != np.uint8:
            raise ValueError(f"{self.format} of {self.shape} needs bytes of shape {expected}")

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)

    @property
    def is_float(self) -> bool:
        """Whether the numbers are stored one by one, in 16 or 32 bits."""
        return self.format in FLOAT_FORMATS

    def take(self, outputs: slice | Sequence[int] | npt.NDArray[np.int64]) -> "QuantizedTensor":
        """Return some of the rows, in the order given; a slice shares the bytes, others copy."""
        data = self.data[outputs]
        return QuantizedTensor(self.format, (len(data), self.shape[1]), data, self.order)

    def to_dtype(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the whole weight in a float type, in the file's own bytes if it is stored so."""
        if self.is_float and FLOAT_FORMATS[self.format] == dtype:
            data = np.asarray(self.data)
            if data.flags.writeable:
                return torch.from_numpy(np.ascontiguousarray(data)).view(dtype)
        return self.dequantize(dtype=dtype)

    def dequantize(
        self, first: int = 0, count: int | None = None, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return `count` rows from `first` on (all if None) in a dtype [count, inputs]."""
        outputs, inputs = self.shape
        last = outputs if count is None else first + count
        result = torch.empty((last - first, inputs), dtype=dtype)
        step = max(1, _CHUNK_ELEMENTS // max(1, inputs))
        for start in range(first, last, step):
            stop = min(start + step, last)
            part = result[start - first : stop - first]
            if self.order is None:
                self._decode(start, stop, part)
            else:
                stored = torch.empty_like(part)
                self._decode(start, stop, stored)
                part[:, torch.from_numpy(self.order).long()] = stored
        return result

    def _decode(self, first: int, last: int, result: torch.Tensor) -> None:
        """Write rows to a dense tensor [rows, inputs], in their stored order."""
        if self.is_float:
            data = np.array(self.data[first:last])
            result.copy_(torch.from_numpy(data).view(FLOAT_FORMATS[self.format]))
        elif self.shape[1] % BLOCK_FORMATS[self.format].inputs or not decode_rows(
            self.format, np.asarray(self.data[first:last]), result
        ):
            result.copy_(self.blocks(first, last).dequantize()[:, : self.shape[1]])

    def blocks(self, first: int, last: int) -> Blocks:
        """Return the codes and scales of the rows from `first` to before `last`."""
        return read_blocks(self.format, np.ascontiguousarray(self.data[first:last]))

    @cached_property
    def placeholder(self) -> torch.Tensor:
        """A tensor of the weight's shape that takes no memory; `quantized_of` finds this weight."""
        values = torch.zeros(()).expand(self.shape)
        setattr(values, _ATTRIBUTE, self)
        return values


def attach_quantized(parameter: torch.Tensor, weight: QuantizedTensor | None) -> None:
    """Make `quantized_of` find the weight of a parameter, whose own values are never read.

    None: the parameter lets go of the one that it had.
    """
    setattr(parameter, _ATTRIBUTE, weight)


def quantized_of(parameter: torch.Tensor) -> QuantizedTensor | None:
    """Return the weight that `attach_quantized` set; None: the parameter has values of its own."""
    found = getattr(parameter, _ATTRIBUTE, None)
    assert found is None or isinstance(found, QuantizedTensor)
    return found


def row_bytes(name: str, inputs: int) -> int:
    """Return the bytes of a row. Raises ValueError if the format is unknown."""
    if name in FLOAT_FORMATS:
        return inputs * FLOAT_FORMATS[name].itemsize
    if name not in BLOCK_FORMATS:
        raise ValueError(f"weights of the format {name} cannot be read")
    block = BLOCK_FORMATS[name]
    return -(-inputs // block.inputs) * block.num_bytes
