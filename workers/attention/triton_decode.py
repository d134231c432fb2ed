"""Decodes over pages in Triton, for where torch's attention reads no block tables.

torch 2.11 has none, and later versions refuse them or go wrong for some layers. Each program takes
one text, one key head with all query heads that share it, and a part of the keys; parts are put
together by a second kernel (Dao et al., "Flash-Decoding for long-context inference", 2023). How
many parts there are depends on the batch alone and how long they are on the text, read on the
device: one recorded step is good for all lengths.

Triton comes with torch's builds for CUDA. With TRITON_INTERPRET=1 it runs on a CPU, for tests.
"""

import functools

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]

from headrace.workers.attention.varlen_call import Lengths, Pages, torch_varlen

_TILE = 8192  # numbers of keys in one turn of a program: with stages in flight they fit on chip
_MAX_PARTS = 32
_MIN_ROWS = 16  # of a matrix product
_WAVES = 2  # programs for each multiprocessor
_UNSPECIALISED = ["window", "parts", "query_stride", "head_stride", "table_stride"]


def triton_decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Lengths,
    *,
    scale: float,
    window: tuple[int, int],
    pages: Pages | None = None,
    num_splits: int | None = None,
) -> torch.Tensor:
    """See workers.attention.varlen_call.VarlenAttention; without pages torch's own is called.

    With pages, sequences have one row each, and `num_splits` is of no account.
    """
    if pages is None:
        return torch_varlen(query, key, value, lengths, scale=scale, window=window)
    try:
        return _decode(query, key, value, pages, scale, window[0] + 1)
    except triton.TritonError as error:  # it cannot be compiled for this device
        raise RuntimeError(str(error)) from error


def _decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pages: Pages,
    scale: float,
    window: int,
) -> torch.Tensor:
    """query [rows, heads, dim] → the same. window: keys that a row sees, 0 for all."""
    rows, heads, dim = query.shape
    kv_heads = key.shape[2]
    parts = min(_MAX_PARTS, -(-_WAVES * _multiprocessors(query.device) // (rows * kv_heads)))
    sums = query.new_empty((rows, heads, parts, dim), dtype=torch.float32)
    stats = query.new_empty((rows, heads, parts, 2), dtype=torch.float32)
    dim_padded = triton.next_power_of_2(dim)
    group = heads // kv_heads
    _attend_part[rows, kv_heads, parts](
        query, key, value, pages.used, pages.table, sums, stats,
        scale, window, parts, query.stride(0), query.stride(1), pages.table.stride(0),
        PAGE=key.shape[1], KV_HEADS=kv_heads, GROUP=group,
        GROUP_PADDED=max(_MIN_ROWS, triton.next_power_of_2(group)),
        DIM=dim, DIM_PADDED=dim_padded, KEYS=min(64, max(16, _TILE // dim_padded)),
    )  # fmt: skip
    output = torch.empty((rows, heads, dim), dtype=query.dtype, device=query.device)
    _merge_parts[rows, heads](
        sums, stats, output, parts, MAX_PARTS=_MAX_PARTS, DIM=dim, DIM_PADDED=dim_padded
    )
    return output


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type == "cpu":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit(do_not_specialize=_UNSPECIALISED)  # type: ignore[untyped-decorator]
def _attend_part(  # type: ignore[no-untyped-def]
    query, keys, values, used, table, sums, stats,
    scale, window, parts, query_stride, head_stride, table_stride,
    PAGE: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr, DIM: tl.constexpr, DIM_PADDED: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Weighted sums of values [rows, heads, parts, dim], not yet divided by their weights' sum.

    keys, values: [pages, page, kv_heads, dim], contiguous. stats: [rows, heads, parts, 2], the
    greatest score and the sum of weights relative to it. window: keys that a row sees, 0 for all.
    """
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(used + row)
    first = tl.where(window > 0, tl.maximum(length - window, 0), 0)
    share = tl.cdiv(tl.cdiv(length - first, parts), KEYS) * KEYS
    begin = first + part * share
    end = tl.minimum(begin + share, length)
    members, dims = tl.arange(0, GROUP_PADDED), tl.arange(0, DIM_PADDED)
    heads = kv_head * GROUP + members
    real = (members < GROUP)[:, None] & (dims < DIM)[None, :]
    places_in_query = row.to(tl.int64) * query_stride + heads[:, None] * head_stride + dims[None, :]
    rows_query = tl.load(query + places_in_query, mask=real, other=0.0)
    best = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    gathered = tl.zeros([GROUP_PADDED, DIM_PADDED], tl.float32)
    for start in range(begin, end, KEYS):
        places = start + tl.arange(0, KEYS)
        inside = places < end
        page = tl.load(table + row * table_stride + places // PAGE, mask=inside, other=0)
        slots = page.to(tl.int64) * PAGE + places % PAGE
        offsets = (slots * KV_HEADS + kv_head)[:, None] * DIM + dims[None, :]
        there = inside[:, None] & (dims < DIM)[None, :]
        some_keys = tl.load(keys + offsets, mask=there, other=0.0)
        scores = tl.dot(rows_query, tl.trans(some_keys), input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        better = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp(scores - better[:, None])
        shrink = tl.exp(best - better)
        some_values = tl.load(values + offsets, mask=there, other=0.0)
        added = tl.dot(weights.to(some_values.dtype), some_values, input_precision="ieee")
        gathered = gathered * shrink[:, None] + added
        total = total * shrink + tl.sum(weights, 1)
        best = better
    place = (row.to(tl.int64) * KV_HEADS * GROUP + heads) * parts + part
    tl.store(sums + place[:, None] * DIM + dims[None, :], gathered, mask=real)
    tl.store(stats + place * 2, best, mask=members < GROUP)
    tl.store(stats + place * 2 + 1, total, mask=members < GROUP)


@triton.jit(do_not_specialize=["parts"])  # type: ignore[untyped-decorator]
def _merge_parts(  # type: ignore[no-untyped-def]
    sums, stats, output, parts, MAX_PARTS: tl.constexpr, DIM: tl.constexpr, DIM_PADDED: tl.constexpr
):
    """Attention [rows, heads, dim] from what `_attend_part` left; parts without keys count 0."""
    place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    numbers, dims = tl.arange(0, MAX_PARTS), tl.arange(0, DIM_PADDED)
    real, inside = dims < DIM, numbers < parts
    best = tl.load(stats + (place * parts + numbers) * 2, mask=inside, other=float("-inf"))
    total = tl.load(stats + (place * parts + numbers) * 2 + 1, mask=inside, other=0.0)
    scales = tl.exp(best - tl.max(best, 0))
    offsets = (place * parts + numbers)[:, None] * DIM + dims[None, :]
    some = tl.load(sums + offsets, mask=inside[:, None] & real[None, :], other=0.0)
    found = tl.sum(some * scales[:, None], 0) / tl.sum(total * scales, 0)
    tl.store(output + place * DIM + dims, found.to(output.dtype.element_ty), mask=real)
