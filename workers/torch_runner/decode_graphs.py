"""Decode steps recorded once and replayed: no Python and no launches one by one.

A recording is of one number of rows and one greatest length, at fixed addresses. A step takes the
smallest recording that it fits into; rows that are left over are run for a text of one token in the
cache's spare block, and their logits are dropped. How a step is recorded is not known here: CUDA
graphs do it (see cuda_graphs), and tests do it by running the step again.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from headrace.workers.attention.backend import Span
from headrace.workers.attention.varlen import (
    DecodeTables,
    decode_slots,
    decode_tables,
    table_counts,
    table_rows,
)
from headrace.workers.transfers import fill, upload

_DOUBLING_LIMIT = 32  # rows up to which sizes double
_ROW_INCREMENT = 32  # and by which they grow above
_MIN_LENGTH = 1024  # tokens; lengths grow by _LONGER from here
_LENGTH_FACTOR = 4


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """A recorded function of no arguments. output: where each replay leaves its result."""

    replay: Callable[[], None]
    output: torch.Tensor


CaptureFunction = Callable[[Callable[[], torch.Tensor]], CapturedGraph]


@dataclass(frozen=True, slots=True)
class Bucket:
    """num_rows: decodes of one step. longest: tokens of each text at most, its last row's too."""

    num_rows: int
    longest: int


class DecodeInputs:
    """A bucket's numbers, on the device at addresses that stay.

    token_ids, positions, slots: [rows] of 64 bits.
    """

    def __init__(self, bucket: Bucket, block_size: int, spare_block: int, device: torch.device):
        rows = bucket.num_rows
        self._bucket = bucket
        self._block_size = block_size
        self._spare = Span(0, 1, 0, [spare_block])
        self._rows = torch.zeros((3, rows), dtype=torch.long, device=device)
        self._counts = torch.zeros(3 * rows + 2, dtype=torch.int32, device=device)
        shape = (rows, -(-bucket.longest // block_size))
        self._table = torch.zeros(shape, dtype=torch.int32, device=device)
        self.token_ids, self.positions, self.slots = self._rows.unbind()
        self.tables: DecodeTables = decode_tables(self._counts, self._table, bucket.longest)
        self.fill([], [])

    def fill(self, token_ids: Sequence[int], spans: Sequence[Span]) -> None:
        """Take a step's decodes, no more and no longer than the bucket's."""
        left = self._bucket.num_rows - len(spans)
        padded = [*spans, *[self._spare] * left]
        rows = [
            [*token_ids, *[0] * left],
            [span.context for span in padded],
            decode_slots(padded, self._block_size),
        ]
        fill(self._rows, rows)
        fill(self._counts, table_counts(padded))
        # Beyond the longest text's blocks nothing is read: what stood there may stay.
        width = -(-max(span.length for span in padded) // self._block_size)
        blocks = upload(table_rows(padded, width), torch.int32, self._table.device)
        self._table[:, :width] = blocks


class DecodeGraphs:
    """The recordings of all buckets."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        make_inputs: Callable[[Bucket], DecodeInputs],
        run: Callable[[DecodeInputs], torch.Tensor],
        capture: CaptureFunction,
    ) -> None:
        """Record `run` on each bucket's inputs, the largest first: the others fit into its memory.

        run: gives logits [rows, vocabulary]. What `record` raises comes through.
        """
        self._captured: dict[Bucket, tuple[DecodeInputs, CapturedGraph]] = {}
        for bucket in sorted(buckets, key=lambda one: (-one.num_rows, -one.longest)):
            inputs = make_inputs(bucket)
            self._captured[bucket] = inputs, capture(lambda inputs=inputs: run(inputs))  # type: ignore[misc]
        self._sizes = sorted({bucket.num_rows for bucket in buckets})
        self._lengths = {
            size: sorted(one.longest for one in buckets if one.num_rows == size)
            for size in self._sizes
        }

    def find(self, num_rows: int, longest: int) -> tuple[DecodeInputs, CapturedGraph] | None:
        """The smallest recording for so many decodes; None if there is none."""
        place = bisect_left(self._sizes, num_rows)
        if place == len(self._sizes):
            return None
        lengths = self._lengths[self._sizes[place]]
        at = bisect_left(lengths, longest)
        if at == len(lengths):
            return None
        return self._captured[Bucket(self._sizes[place], lengths[at])]


def choose_buckets(max_rows: int, max_length: int, saturating_rows: int) -> list[Bucket]:
    """Buckets for steps of up to max_rows decodes of texts of up to max_length tokens.

    saturating_rows: from so many on a step keeps the device busy without cutting up long texts; how
    finely they are cut up is recorded with the greatest length, so that below it there are several.
    """
    sizes = [2**power for power in range(_DOUBLING_LIMIT.bit_length()) if 2**power < max_rows]
    sizes += range(_DOUBLING_LIMIT + _ROW_INCREMENT, max_rows, _ROW_INCREMENT)
    sizes.append(max_rows)
    lengths = [max_length]
    length = _MIN_LENGTH
    ladder = []
    while length < max_length:
        ladder.append(length)
        length *= _LENGTH_FACTOR
    return [
        Bucket(size, longest)
        for size in sizes
        for longest in (lengths if size >= saturating_rows else [*ladder, max_length])
    ]
