"""A weight in a format that no kernel reads, which becomes blocks where kernels ask for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from headrace.workers.quantized.converted_rows import Bytes, ConvertedRows, Rows
from headrace.workers.quantized.encode import quantize
from headrace.workers.quantized.tensor import QuantizedTensor, row_bytes

ReadNumbers = Callable[[Rows], torch.Tensor]  # of some outputs, float32 [outputs, inputs]

_FORMAT = "q8_0"


@dataclass(frozen=True, eq=False, kw_only=True)
class RoundedTensor(QuantizedTensor):
    """A weight whose blocks are rounded, and whose numbers are not.

    Kernels read `data`: 8-bit integers with a scale for 32 inputs. `dequantize` returns the file's
    own numbers.

    numbers: reads those of some of the file's outputs. rows: which of these the weight has.
    """

    numbers: ReadNumbers
    rows: Rows

    def take(self, outputs: slice | Sequence[int] | npt.NDArray[np.int64]) -> "RoundedTensor":
        """Return some of the rows, in the order given."""
        chosen = self.rows[outputs if isinstance(outputs, slice) else np.asarray(outputs)]
        return _tensor((len(chosen), self.shape[1]), self.numbers, chosen)

    def _decode(self, first: int, last: int, result: torch.Tensor) -> None:
        result[:] = self.numbers(self.rows[first:last])


def rounded_tensor(shape: tuple[int, int], numbers: ReadNumbers) -> RoundedTensor:
    """Return a weight [outputs, inputs] whose numbers that function reads."""
    return _tensor(shape, numbers, np.arange(shape[0]))


def _tensor(shape: tuple[int, int], numbers: ReadNumbers, rows: Rows) -> RoundedTensor:
    def convert(chosen: Rows) -> Bytes:
        return np.asarray(quantize(_FORMAT, numbers(chosen)).data)

    data = ConvertedRows(convert, rows, row_bytes(_FORMAT, shape[1]))
    return RoundedTensor(_FORMAT, shape, data, numbers=numbers, rows=rows)
