"""A Triton kernel for decodes over pages, where torch's attention reads no block tables.

torch 2.11 has no block tables, and later versions reject them or are wrong for some layers. Each
program computes one sequence, one key head with all query heads that share it, and a part of the
keys; a second kernel merges the parts (Dao et al., "Flash-Decoding for long-context inference",
2023). The number of parts depends on the batch alone, and their length on the sequence's, read on
the device: one captured step serves all lengths.

Triton comes with torch's builds for CUDA. With TRITON_INTERPRET=1 it runs on a CPU, for tests.
"""

import functools

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]

from headrace.workers.attention.varlen_call import Lengths, Pages, torch_varlen

_TILE = 8192  # elements of keys in one iteration: with stages in flight they fit on chip
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
    """Attend as described in headrace.workers.attention.varlen_call.VarlenAttention.

    Without pages torch's kernel is called. With pages, sequences must have one row each, and
    `num_splits` is ignored.
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
    """Attend: query [rows, heads, dim] → the same. window: keys that a row sees, 0 for all."""
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
    """Compute weighted sums of values [rows, heads, parts, dim], not divided by their weights' sum.

    keys, values: [pages, page, kv_heads, dim], contiguous. stats: [rows, heads, parts, 2], the
    maximal score and the sum of weights relative to it. window: keys that a row attends to, 0 for
    all.
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
    query_offsets = row.to(tl.int64) * query_stride + heads[:, None] * head_stride + dims[None, :]
    rows_query = tl.load(query + query_offsets, mask=real, other=0.0)
    max_score = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    gathered = tl.zeros([GROUP_PADDED, DIM_PADDED], tl.float32)
    for start in range(begin, end, KEYS):
        positions = start + tl.arange(0, KEYS)
        inside = positions < end
        page = tl.load(table + row * table_stride + positions // PAGE, mask=inside, other=0)
        slots = page.to(tl.int64) * PAGE + positions % PAGE
        offsets = (slots * KV_HEADS + kv_head)[:, None] * DIM + dims[None, :]
        valid = inside[:, None] & (dims < DIM)[None, :]
        keys_tile = tl.load(keys + offsets, mask=valid, other=0.0)
        scores = tl.dot(rows_query, tl.trans(keys_tile), input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_max = tl.maximum(max_score, tl.max(scores, 1))
        weights = tl.exp(scores - new_max[:, None])
        shrink = tl.exp(max_score - new_max)
        values_tile = tl.load(values + offsets, mask=valid, other=0.0)
        added = tl.dot(weights.to(values_tile.dtype), values_tile, input_precision="ieee")
        gathered = gathered * shrink[:, None] + added
        total = total * shrink + tl.sum(weights, 1)
        max_score = new_max
    index = (row.to(tl.int64) * KV_HEADS * GROUP + heads) * parts + part
    tl.store(sums + index[:, None] * DIM + dims[None, :], gathered, mask=real)
    tl.store(stats + index * 2, max_score, mask=members < GROUP)
    tl.store(stats + index * 2 + 1, total, mask=members < GROUP)


@triton.jit(do_not_specialize=["parts"])  # type: ignore[untyped-decorator]
def _merge_parts(  # type: ignore[no-untyped-def]
    sums, stats, output, parts, MAX_PARTS: tl.constexpr, DIM: tl.constexpr, DIM_PADDED: tl.constexpr
):
    """Merge the parts of `_attend_part` to attention [rows, heads, dim]; empty parts count 0."""
    index = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    numbers, dims = tl.arange(0, MAX_PARTS), tl.arange(0, DIM_PADDED)
    real, inside = dims < DIM, numbers < parts
    max_score = tl.load(stats + (index * parts + numbers) * 2, mask=inside, other=float("-inf"))
    total = tl.load(stats + (index * parts + numbers) * 2 + 1, mask=inside, other=0.0)
    scales = tl.exp(max_score - tl.max(max_score, 0))
    offsets = (index * parts + numbers)[:, None] * DIM + dims[None, :]
    part_sums = tl.load(sums + offsets, mask=inside[:, None] & real[None, :], other=0.0)
    result = tl.sum(part_sums * scales[:, None], 0) / tl.sum(total * scales, 0)
    tl.store(output + index * DIM + dims, result.to(output.dtype.element_ty), mask=real)
