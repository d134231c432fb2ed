"""Capture decode steps once and replay them, without Python and without single launches.

A graph has one number of rows and one maximal length, at fixed addresses. A step uses the smallest
graph that it fits into; unused rows run a sequence of one token in the cache's spare block, and
their logits are dropped. The capture itself is done elsewhere: by CUDA graphs (see cuda_graphs),
and in tests by running the step again.
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

_DOUBLING_LIMIT = 32  # numbers of rows double up to here
_ROW_INCREMENT = 32  # and grow by this above
_MIN_LENGTH = 1024  # tokens; lengths grow by _LENGTH_FACTOR from here
_LENGTH_FACTOR = 4


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """A captured function without arguments. output: the tensor that each replay overwrites."""

    replay: Callable[[], None]
    output: torch.Tensor


CaptureFunction = Callable[[Callable[[], torch.Tensor]], CapturedGraph]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The size of a captured step.

    num_rows: its decodes. longest: tokens of any sequence, including its last row's.
    """

    num_rows: int
    longest: int


class DecodeInputs:
    """The inputs of a bucket's step, on the device at fixed addresses.

    token_ids, positions, slots: [rows], 64-bit integers.
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
        """Write a step's decodes, not more and not longer than the bucket's."""
        padding = self._bucket.num_rows - len(spans)
        padded = [*spans, *[self._spare] * padding]
        rows = [
            [*token_ids, *[0] * padding],
            [span.context for span in padded],
            decode_slots(padded, self._block_size),
        ]
        fill(self._rows, rows)
        fill(self._counts, table_counts(padded))
        # Beyond the blocks of the longest sequence nothing is read: old values may stay.
        width = -(-max(span.length for span in padded) // self._block_size)
        blocks = upload(table_rows(padded, width), torch.int32, self._table.device)
        self._table[:, :width] = blocks


class DecodeGraphs:
    """The captured graphs of all buckets."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        make_inputs: Callable[[Bucket], DecodeInputs],
        run: Callable[[DecodeInputs], torch.Tensor],
        capture: CaptureFunction,
    ) -> None:
        """Capture `run` on each bucket's inputs, the largest first: the others fit into its memory.

        run: returns logits [rows, vocabulary]. Raises what `capture` raises.
        """
        self._captured: dict[Bucket, tuple[DecodeInputs, CapturedGraph]] = {}
        for bucket in sorted(buckets, key=lambda b: (-b.num_rows, -b.longest)):
            inputs = make_inputs(bucket)
            self._captured[bucket] = inputs, capture(lambda inputs=inputs: run(inputs))  # type: ignore[misc]
        self._sizes = sorted({bucket.num_rows for bucket in buckets})
        self._lengths = {
            size: sorted(bucket.longest for bucket in buckets if bucket.num_rows == size)
            for size in self._sizes
        }

    def find(self, num_rows: int, longest: int) -> tuple[DecodeInputs, CapturedGraph] | None:
        """Return the smallest graph for this number of decodes; None if there is none."""
        size_index = bisect_left(self._sizes, num_rows)
        if size_index == len(self._sizes):
            return None
        lengths = self._lengths[self._sizes[size_index]]
        length_index = bisect_left(lengths, longest)
        if length_index == len(lengths):
            return None
        return self._captured[Bucket(self._sizes[size_index], lengths[length_index])]


def choose_buckets(max_rows: int, max_length: int, saturating_rows: int) -> list[Bucket]:
    """Return buckets for steps of up to max_rows decodes of up to max_length tokens.

    saturating_rows: from this number of rows on, a step keeps the device busy without splitting
        long sequences. How finely they are split is captured with the maximal length, so steps of
        fewer rows have several lengths.
    """
    sizes = [2**power for power in range(_DOUBLING_LIMIT.bit_length()) if 2**power < max_rows]
    sizes += range(_DOUBLING_LIMIT + _ROW_INCREMENT, max_rows, _ROW_INCREMENT)
    sizes.append(max_rows)
    lengths = [max_length]
    length = _MIN_LENGTH
    shorter = []
    while length < max_length:
        shorter.append(length)
        length *= _LENGTH_FACTOR
    return [
        Bucket(size, longest)
        for size in sizes
        for longest in (lengths if size >= saturating_rows else [*shorter, max_length])
    ]
