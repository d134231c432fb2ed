"""Rows of blocks that are made of another layout where they are read."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class ConvertedRows:
    """Rows [outputs, bytes per row], of which a file has the numbers in a layout of its own.

    A slice of them is converted when it is needed as an array; other choices at once.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, convert: Callable[[Rows], Bytes], rows: Rows, row_bytes: int) -> None:
        """Refer to the rows of these numbers; `convert` returns the bytes of any of them."""
        self._convert, self._rows = convert, rows
        self.shape = (len(rows), row_bytes)

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, rows: slice) -> "ConvertedRows": ...
    @overload
    def __getitem__(self, rows: Sequence[int] | Rows) -> Bytes: ...
    def __getitem__(self, rows: slice | Sequence[int] | Rows) -> "ConvertedRows | Bytes":
        if isinstance(rows, slice):
            return ConvertedRows(self._convert, self._rows[rows], self.shape[1])
        return self._convert(self._rows[np.asarray(rows)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Bytes:
        return self._convert(self._rows)
