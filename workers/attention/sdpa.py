"""Compute paged attention in plain torch operations, on any device.

Decodes (one token each) run together: their keys and values are gathered by block table into a
padded batch. Longer chunks run one by one. Query heads that share a key head are folded into
another dimension, so that keys and values are never repeated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from headrace.workers.attention.backend import (
    AttentionBatch,
    AttentionOptions,
    KVLayerShape,
    Reach,
    Span,
)
from headrace.workers.attention.cache_dtype import CacheDtype, choose_cache_dtype
from headrace.workers.attention.cached_heads import CachedHeads, make_cached_heads
from headrace.workers.attention.sparse import KeyChoice

_MIN_PADDING_TO_SPLIT = 128  # tokens; below it another call costs more than the padding
_MAX_SCORES = 16 * 1024 * 1024  # elements of scores at once, where they are computed explicitly


@dataclass(frozen=True, slots=True)
class _Gather:
    """Rows first to last - 1 of the batch and the cache slots of their keys.

    The rows are decodes of one token each, or the chunk of one sequence.

    width: keys of each sequence.
    slots: cache slots, [rows * width] for decodes and [width] for a chunk.
    positions: of the keys, shaped as the slots.
    mask: added to scores; None if all keys are visible.
    """

    first: int
    last: int
    width: int
    slots: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None


class SdpaBackend:
    """Caches keys and values as [slots, kv_heads, dim]; block b holds slots from b * block_size.

    cache_dtype: of the cache; None: the model's.
    """

    def __init__(
        self,
        layers: Sequence[KVLayerShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        cache_dtype: CacheDtype | None = None,
    ) -> None:
        slots = num_blocks * block_size
        self._block_size = block_size
        self._dtype = dtype
        self._device = device
        stored = cache_dtype or choose_cache_dtype("auto", dtype)

        def cached(heads: int, dim: int) -> CachedHeads:
            return make_cached_heads(slots, heads, dim, dtype, stored, device)

        self._keys = [cached(layer.kv_heads, layer.key_dim) for layer in layers]
        self._values = [cached(layer.kv_heads, layer.value_dim) for layer in layers]
        self._batch = AttentionBatch((), ())
        self._row_slots = torch.empty(0, dtype=torch.long, device=device)
        self._gathers: dict[tuple[Reach, int], list[_Gather]] = {}

    def prepare(self, batch: AttentionBatch) -> None:
        self._batch = batch
        self._gathers.clear()
        size = self._block_size
        decode_slots = [
            span.blocks[span.context // size] * size + span.context % size for span in batch.decodes
        ]
        parts = [torch.tensor(decode_slots, dtype=torch.long)]
        parts += [self._slots(span, span.context) for span in batch.prefills]
        self._row_slots = torch.cat(parts).to(self._device)

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        self._keys[layer].write(self._row_slots, key)
        if value.shape[2]:  # an indexer has keys only
            self._values[layer].write(self._row_slots, value)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        if options.sparse is not None:
            return self._attend_sparsely(layer, query, options, options.sparse)
        parts = [
            self._attend_decodes(layer, gather, query, options)
            for gather in self._decode_gathers(options.reach)
        ]
        for span in self._batch.prefills:
            rows = slice(span.first_row, span.first_row + span.num_rows)
            # A token sees what one before it does not: the first position that it attends to grows.
            sees_all = options.reach.start(span.length - 1) == 0 and options.key_bias is None
            if span.context == 0 and sees_all:
                keys = self._keys[layer].as_read(key[rows])
                values = self._values[layer].as_read(value[rows])
                parts.append(_attend_chunk(query[rows], keys, values, None, options, None))
            else:
                gather = self._chunk_gather(span, options.reach)
                keys, values = self._read(layer, gather.slots)
                bias = _bias_of_heads(options, gather.positions, keys.shape[1])
                parts.append(_attend_chunk(query[rows], keys, values, gather.mask, options, bias))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_decodes(
        self, layer: int, gather: _Gather, query: torch.Tensor, options: AttentionOptions
    ) -> torch.Tensor:
        keys, values = self._read(layer, gather.slots)
        bias = _bias_of_heads(options, gather.positions, keys.shape[1])
        count = gather.last - gather.first
        heads, kv_heads, dim = query.shape[1], keys.shape[1], query.shape[2]
        folded = query[gather.first : gather.last].reshape(count, kv_heads, heads // kv_heads, dim)
        output = _attention(
            folded,
            keys.view(count, gather.width, kv_heads, dim).transpose(1, 2),
            values.view(count, gather.width, kv_heads, -1).transpose(1, 2),
            gather.mask,
            False,
            options,
            _sinks_of_heads(options, kv_heads)[:, :, None],
            None
            if bias is None
            else bias.view(count, gather.width, kv_heads, -1).permute(0, 2, 3, 1),
        )
        return output.reshape(count, heads, -1)

    def _attend_sparsely(
        self, layer: int, query: torch.Tensor, options: AttentionOptions, sparse: KeyChoice
    ) -> torch.Tensor:
        """Attend to the keys that an indexer chooses, each sequence by itself."""
        parts = []
        for span in (*self._batch.decodes, *self._batch.prefills):
            rows = slice(span.first_row, span.first_row + span.num_rows)
            slots = self._slots(span, 0).to(self._device)
            positions = torch.arange(span.length, device=self._device)
            visible = options.reach.visible(positions[span.context :, None], positions)
            chosen = sparse.choose(rows, self._keys[sparse.layer].read(slots)[:, 0], visible)
            mask = self._mask(chosen)
            keys, values = self._read(layer, slots)
            parts.append(_attend_chunk(query[rows], keys, values, mask, options, None))
        return torch.cat(parts)

    def _read(self, layer: int, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._keys[layer].read(slots), self._values[layer].read(slots)

    def _decode_gathers(self, reach: Reach) -> list[_Gather]:
        gathers = self._gathers.get((reach, -1))
        if gathers is None:
            spans = self._batch.decodes
            gathers = [
                self._decode_gather(first, last, reach)
                for first, last in _groups([_visible(span, reach) for span in spans])
            ]
            self._gathers[reach, -1] = gathers
        return gathers

    def _decode_gather(self, first: int, last: int, reach: Reach) -> _Gather:
        """Return the slots that decodes first to last - 1 attend to, padded to the longest.

        Padding repeats a slot that the sequence has written: other slots could hold infinities,
        which a mask does not remove.
        """
        spans = self._batch.decodes[first:last]
        visible = [_visible(span, reach) for span in spans]
        width, size = max(visible), self._block_size
        longest = max(len(span.blocks) for span in spans)
        table = torch.tensor([[*s.blocks, *[0] * (longest - len(s.blocks))] for s in spans])
        counts = torch.tensor(visible).unsqueeze(1)
        starts = torch.tensor([span.length for span in spans]).unsqueeze(1) - counts
        offsets = torch.arange(width).unsqueeze(0)
        positions = starts + torch.where(offsets < counts, offsets, 0)
        slots = table.gather(1, positions // size) * size + positions % size
        mask = None
        if min(visible) < width:
            mask = self._mask(offsets < counts)[:, None, None, :]
        slots, positions = slots.flatten().to(self._device), positions.flatten().to(self._device)
        return _Gather(first, last, width, slots, positions, mask)

    def _chunk_gather(self, span: Span, reach: Reach) -> _Gather:
        """Return the slots of all keys that a chunk's rows attend to, with the rows' mask."""
        cached = self._gathers.get((reach, span.first_row))
        if cached is not None:
            return cached[0]
        start = reach.start(span.context)
        slots = self._slots(span, start).to(self._device)
        keys = torch.arange(start, span.length)
        queries = torch.arange(span.context, span.length).unsqueeze(1)
        mask = self._mask(reach.visible(queries, keys))
        last = span.first_row + span.num_rows
        positions = keys.to(self._device)
        gather = _Gather(span.first_row, last, len(slots), slots, positions, mask)
        self._gathers[reach, span.first_row] = [gather]
        return gather

    def _slots(self, span: Span, start: int) -> torch.Tensor:
        """Return the slots of the sequence's tokens from `start` to the span's last row."""
        positions = torch.arange(start, span.length)
        blocks = torch.tensor(span.blocks)
        return blocks[positions // self._block_size] * self._block_size + (
            positions % self._block_size
        )

    def _mask(self, visible: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=visible.device)
        return mask.masked_fill_(~visible, float("-inf")).to(self._device)


def _attend_chunk(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    options: AttentionOptions,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Attend: query [rows, heads, dim], key, value [keys, kv_heads, dim]; causal without a mask.

    bias: of scores [keys, kv_heads, query heads of each].
    """
    rows, heads, dim = query.shape
    kv_heads = key.shape[1]
    shared = heads // kv_heads
    output = _attention(
        query.view(rows, kv_heads, shared, dim).permute(2, 1, 0, 3),
        key.transpose(0, 1).expand(shared, -1, -1, -1),
        value.transpose(0, 1).expand(shared, -1, -1, -1),
        mask,
        mask is None,
        options,
        _sinks_of_heads(options, kv_heads).t()[:, :, None, None],
        None if bias is None else bias.permute(2, 1, 0).unsqueeze(2),
    )
    return output.permute(2, 1, 0, 3).reshape(rows, heads, -1)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    options: AttentionOptions,
    sinks: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Attend: query [batch, heads, queries, dim], key, value [batch, heads, keys, dim].

    sinks, bias: shaped to be added to the scores' dimensions.
    """
    if options.softcap is None and options.sinks is None and bias is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=is_causal, scale=options.scaling
        )
    if is_causal:
        length = query.shape[2]
        mask = query.new_full((length, length), float("-inf")).triu_(1)
    # In 16 bits oneDNN would compile, and keep, code for each new pair of lengths.
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    keys = key.transpose(2, 3).to(dtype) * options.scaling
    values = value.to(dtype)
    step = max(1, _MAX_SCORES // (query.shape[0] * query.shape[1] * key.shape[2]))
    parts = []
    for start in range(0, query.shape[2], step):
        rows = query[:, :, start : start + step].to(dtype)
        weights = _weights(rows, keys, _rows(mask, start, step), options, sinks, bias)
        parts.append(torch.matmul(weights, values).to(query.dtype))
    return torch.cat(parts, dim=2)


def _weights(
    query: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor | None,
    options: AttentionOptions,
    sinks: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Compute weights of soft-capped scores (as in Gemma 2), of scores beside a sink (as in
    gpt-oss), or with a bias by key (as in BLOOM): [batch, heads, queries, keys]."""
    scores = torch.matmul(query, keys)
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if mask is not None:
        scores = scores + mask
    if options.sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:3], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return weights if options.sinks is None else weights[..., :-1]


def _sinks_of_heads(options: AttentionOptions, kv_heads: int) -> torch.Tensor:
    """Return the sinks [kv_heads, query heads of each]; zeros where there are none."""
    sinks = options.sinks
    return torch.zeros((1, 1)) if sinks is None else sinks.view(kv_heads, -1)


def _bias_of_heads(
    options: AttentionOptions, positions: torch.Tensor, kv_heads: int
) -> torch.Tensor | None:
    """Return the bias of keys at positions [keys]: [keys, kv_heads, query heads of each]."""
    if options.key_bias is None:
        return None
    return options.key_bias.at(positions).view(len(positions), kv_heads, -1)


def _rows(mask: torch.Tensor | None, start: int, count: int) -> torch.Tensor | None:
    if mask is None or mask.shape[-2] == 1:
        return mask
    return mask[..., start : start + count, :]


def _visible(span: Span, reach: Reach) -> int:
    """Return to how many tokens the last row of a span attends."""
    return span.length - reach.start(span.length - 1)


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Split ascending lengths into runs that are not much longer at the end than at the start."""
    first = 0
    for index, length in enumerate(lengths):
        if length > 2 * lengths[first] and length - lengths[first] > _MIN_PADDING_TO_SPLIT:
            yield first, index
            first = index
    if lengths:
        yield first, len(lengths)
