"""Compute paged attention by torch's variable-length attention, on CUDA in 16-bit floats.

Decodes read their keys through a block table. Prompt chunks do not: those without a context attend
to their own rows, the others to keys gathered in order. That is faster than through a table and
avoids a fault of the kernel with tables, which merges wrongly what it has computed in parts for
sequences of several rows (FlashAttention 2; torch up to 2.13). For the same reason decodes are
computed in one part unless query heads share a key head and there is no window: then the kernel
uses another layout. Without usable tables, decodes are computed as chunks are.

Nothing here waits for the device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from headrace.workers.attention.backend import AttentionBatch, AttentionOptions, KVLayerShape, Span
from headrace.workers.attention.varlen_call import Lengths, Pages, VarlenAttention, torch_varlen
from headrace.workers.transfers import upload, upload_tensor

PAGE_SIZE = 256  # the kernel accepts multiples of it
_GATHERED_KEYS = 64 * 1024  # maximum of one call, unless one sequence alone has more


@dataclass(frozen=True, slots=True)
class DecodeTables:
    """Sequences of one row each, the first rows of the batch."""

    lengths: Lengths
    pages: Pages

    @property
    def count(self) -> int:
        return len(self.pages.used)


@dataclass(frozen=True, slots=True)
class _Pack:
    """Rows first to last - 1 and the cache slots of their keys [keys]; None: the rows' own keys."""

    first: int
    last: int
    lengths: Lengths
    slots: torch.Tensor | None


class VarlenBackend:
    """Variable-length attention with a cache of [blocks + 1, block_size, kv_heads, dim].

    spare_block: the last block, which no sequence has; padding rows are written there.
    paged: whether decodes read block tables; block_size must then suit the kernel.
    """

    def __init__(
        self,
        layers: Sequence[KVLayerShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        paged: bool = True,
        attention: VarlenAttention = torch_varlen,
    ) -> None:
        self.spare_block = num_blocks
        self._block_size = block_size
        self._device = device
        self._paged = paged
        self._attention = attention
        shapes = [(num_blocks + 1, block_size, layer.kv_heads, layer.key_dim) for layer in layers]
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self._row_slots = torch.empty(0, dtype=torch.long, device=device)
        self._decodes: DecodeTables | None = None
        self._packs: list[_Pack] = []

    def prepare(self, batch: AttentionBatch) -> None:
        size, device = self._block_size, self._device
        decodes, chunks = batch.decodes, batch.prefills
        slots = [upload(decode_slots(decodes, size), torch.long, torch.device("cpu"))]
        slots += [_slots(span, span.context, size) for span in chunks]
        self._row_slots = upload_tensor(torch.cat(slots), device)
        self._decodes = None
        if decodes and self._paged:
            self._decodes = self._tables(decodes)
        elif decodes:
            chunks = [*decodes, *chunks]
        self._packs = [self._pack(spans) for spans in _groups(chunks)]

    def prepare_static(self, row_slots: torch.Tensor, tables: DecodeTables) -> None:
        """Prepare a step of decodes whose inputs are on the device, at fixed addresses."""
        self._row_slots, self._decodes, self._packs = row_slots, tables, []

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        self._keys[layer].flatten(0, 1).index_copy_(0, self._row_slots, key)
        self._values[layer].flatten(0, 1).index_copy_(0, self._row_slots, value)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        parts = []
        if self._decodes is not None:
            rows = query[: self._decodes.count]
            parts.append(self._attend_tables(self._decodes, layer, rows, options))
        for pack in self._packs:
            keys, values = key[pack.first : pack.last], value[pack.first : pack.last]
            if pack.slots is not None:
                keys = self._keys[layer].flatten(0, 1).index_select(0, pack.slots)
                values = self._values[layer].flatten(0, 1).index_select(0, pack.slots)
            left = -1 if options.window is None else options.window - 1
            rows = query[pack.first : pack.last]
            parts.append(
                self._attention(
                    rows, keys, values, pack.lengths, scale=options.scaling, window=(left, 0)
                )
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_tables(
        self, tables: DecodeTables, layer: int, rows: torch.Tensor, options: AttentionOptions
    ) -> torch.Tensor:
        """Attend the decodes through block tables.

        The last row of a sequence attends to all keys in any case; not to ask for causality keeps
        the kernel's faster layout.
        """
        keys = self._keys[layer]
        shared = rows.shape[1] > keys.shape[2]
        splits = None if shared and options.window is None else 1
        return self._attention(
            rows,
            keys,
            self._values[layer],
            tables.lengths,
            scale=options.scaling,
            window=(-1, -1) if options.window is None else (options.window - 1, 0),
            pages=tables.pages,
            num_splits=splits,
        )

    def _tables(self, spans: Sequence[Span]) -> DecodeTables:
        longest = max(span.length for span in spans)
        width = -(-longest // self._block_size)
        counts = upload(table_counts(spans), torch.int32, self._device)
        table = upload(table_rows(spans, width), torch.int32, self._device)
        return decode_tables(counts, table, longest)

    def _pack(self, spans: Sequence[Span]) -> _Pack:
        queries = [span.num_rows for span in spans]
        keys = [span.length for span in spans]
        sums = [_sums(queries), _sums(keys)]
        cu_queries, cu_keys = upload(sums, torch.int32, self._device).unbind()
        slots = None
        if any(span.context for span in spans):
            slots = torch.cat([_slots(span, 0, self._block_size) for span in spans])
            slots = upload_tensor(slots, self._device)
        first, last = spans[0].first_row, spans[-1].first_row + spans[-1].num_rows
        return _Pack(first, last, Lengths(cu_queries, cu_keys, max(queries), max(keys)), slots)


def decode_slots(spans: Sequence[Span], block_size: int) -> list[int]:
    """Return the cache slot that each row of these decodes is written to."""
    return [
        span.blocks[span.context // block_size] * block_size + span.context % block_size
        for span in spans
    ]


def table_counts(spans: Sequence[Span]) -> list[int]:
    """Return the lengths of these decodes, followed by the sums that `decode_tables` reads."""
    lengths = [span.length for span in spans]
    return [*lengths, *range(len(spans) + 1), *_sums(lengths)]


def table_rows(spans: Sequence[Span], width: int) -> list[list[int]]:
    """Return the first `width` blocks of each of these decodes, padded with 0."""
    rows = [list(span.blocks[:width]) for span in spans]
    return [row + [0] * (width - len(row)) for row in rows]


def decode_tables(counts: torch.Tensor, table: torch.Tensor, longest: int) -> DecodeTables:
    """Combine `table_counts` and `table_rows` on the device. longest: tokens of any sequence."""
    rows = len(table)
    used, cu_queries, cu_keys = torch.split(counts, [rows, rows + 1, rows + 1])
    return DecodeTables(Lengths(cu_queries, cu_keys, 1, longest), Pages(used, table))


def _groups(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Group consecutive spans, all with or all without a context, with not too many keys."""
    group: list[Span] = []
    for span in spans:
        differs = bool(group) and (span.context == 0) != (group[0].context == 0)
        keys = span.length + sum(member.length for member in group)
        if differs or (group and span.context and keys > _GATHERED_KEYS):
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _slots(span: Span, start: int, block_size: int) -> torch.Tensor:
    """Return the slots of the tokens from `start` to the span's last row, on the host."""
    positions = torch.arange(start, span.length)
    blocks = torch.tensor(span.blocks)
    return blocks[positions // block_size] * block_size + positions % block_size


def _sums(counts: Sequence[int]) -> list[int]:
    return [0, *accumulate(counts)]
