"""Hold the masks of a step: bits in memory that a thread fills."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import NamedTuple


class MaskRows:
    """The masks of a step: num_rows rows of row_bytes bytes each.

    A mask is a bit for each token id, the lowest bit of each byte first, 1 where it is allowed.
    """

    def __init__(self, num_rows: int, row_bytes: int) -> None:
        self.num_rows = num_rows
        self.row_bytes = row_bytes
        self._bits = bytearray(num_rows * row_bytes)
        self._done: Future[None] | None = None

    def fill(self, threads: Executor, work: Callable[[bytearray], None]) -> None:
        """Let a thread write all masks."""
        self._done = threads.submit(work, self._bits)

    def bits(self) -> bytearray:
        """Wait until all masks are written, and return them."""
        if self._done is not None:
            self._done.result()
            self._done = None
        return self._bits

    def allows(self, row: int, token_id: int) -> bool:
        """Return whether the mask of a row allows a token."""
        return bool(self.bits()[row * self.row_bytes + token_id // 8] >> token_id % 8 & 1)


class Mask(NamedTuple):
    """The tokens that may come next in a sequence: one of a step's masks."""

    rows: MaskRows
    row: int
