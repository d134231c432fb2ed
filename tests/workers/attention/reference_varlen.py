"""torch's variable-length attention by its documentation, one sequence at a time, on any device.

It refuses what FlashAttention 2 in torch refuses or gets wrong.
"""

import torch

from headrace.workers.attention.backend import AttentionOptions
from headrace.workers.attention.varlen_call import Lengths, Pages
from headrace.workers.attention.varlen_check import plain_attention


def reference_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Lengths,
    *,
    scale: float,
    window: tuple[int, int],
    pages: Pages | None = None,
    num_splits: int | None = None,
    multiple: int = 256,
) -> torch.Tensor:
    """See workers.attention.varlen_call.VarlenAttention; pages must be of a multiple of tokens."""
    _check(query, key, lengths, pages)
    if pages is not None:
        assert key.shape[1] % multiple == 0, "Paged KV cache block size"
        _check_pages(query, key, lengths, window, pages, num_splits)
    output = torch.empty_like(query)
    starts, ends = lengths.cu_queries.tolist(), lengths.cu_keys.tolist()
    for number in range(len(starts) - 1):
        rows = slice(starts[number], starts[number + 1])
        if pages is None:
            keys = slice(ends[number], ends[number + 1])
            own_key, own_value = key[keys], value[keys]
        else:
            own_key, own_value = _read(key, pages, number), _read(value, pages, number)
        assert rows.stop - rows.start <= lengths.max_queries
        assert len(own_key) <= lengths.max_keys
        options = AttentionOptions(scale, None if window[0] < 0 else window[0] + 1)
        output[rows] = plain_attention(query[rows], own_key, own_value, options)
    return output


def _check(query: torch.Tensor, key: torch.Tensor, lengths: Lengths, pages: Pages | None) -> None:
    assert query.stride(-1) == key.stride(-1) == 1
    assert lengths.cu_queries.dtype == lengths.cu_keys.dtype == torch.int32
    assert lengths.cu_queries.is_contiguous()
    assert lengths.cu_keys.is_contiguous()
    assert lengths.cu_keys.shape == lengths.cu_queries.shape
    assert lengths.cu_queries[-1] == len(query)
    if pages is None:
        assert lengths.cu_keys[-1] == len(key)


def _check_pages(
    query: torch.Tensor,
    key: torch.Tensor,
    lengths: Lengths,
    window: tuple[int, int],
    pages: Pages,
    num_splits: int | None,
) -> None:
    assert key.dim() == 4
    assert pages.table.dtype == pages.used.dtype == torch.int32
    assert pages.table.stride(-1) == 1
    assert pages.table.shape[0] == len(pages.used) == len(lengths.cu_queries) - 1
    swapped = lengths.max_queries == 1 and query.shape[1] > key.shape[2] and window == (-1, -1)
    assert swapped or num_splits == 1, "parts would be summed up wrongly"


def _read(cache: torch.Tensor, pages: Pages, number: int) -> torch.Tensor:
    used = int(pages.used[number])
    blocks = pages.table[number, : -(-used // cache.shape[1])].long()
    return cache[blocks].flatten(0, 1)[:used]
