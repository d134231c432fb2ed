"""The one place that calls torch's variable-length attention (FlashAttention, CUDA only).

What it can do differs by version: torch 2.11 has no block tables, 2.12 has them, and takes a number
of splits only for kernels that it does not bring along. Signatures tell the first apart; the rest
shows in varlen_check.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch


@dataclass(frozen=True, slots=True)
class Lengths:
    """Where the sequences lie; 32-bit integers on the device.

    cu_queries, cu_keys: [sequences + 1], sums of rows and of keys of all sequences before.
    max_queries, max_keys: no sequence has more.
    """

    cu_queries: torch.Tensor
    cu_keys: torch.Tensor
    max_queries: int
    max_keys: int


@dataclass(frozen=True, slots=True)
class Pages:
    """Where the keys of sequences lie in a cache of pages; 32-bit integers on the device.

    used: [sequences], keys of each. table: [sequences, pages], the pages that hold them, in order.
    """

    used: torch.Tensor
    table: torch.Tensor


class VarlenAttention(Protocol):
    """Attention of each sequence's rows to its own keys."""

    def __call__(
        self,
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
        """query [rows, heads, dim] → [rows, heads, dim].

        key, value: [keys, kv_heads, dim], or with pages [pages, page_size, kv_heads, dim].
        window: keys before and after a row that it sees, -1 for all; a sequence's last row stands
            at its last key.
        num_splits: parts that a sequence's keys are cut into and summed up from; None: any number.
        """
        ...


def torch_varlen(
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
    """torch's own; see VarlenAttention. TypeError if it lacks what is asked of it."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scale, "window_size": window}
    if pages is not None:
        options |= {"seqused_k": pages.used, "block_table": pages.table}
    if num_splits is not None:
        options["num_splits"] = num_splits
    if query.shape[1] != key.shape[-2] and "enable_gqa" in _parameters():
        options["enable_gqa"] = True
    output = varlen_attn(
        query,
        key,
        value,
        lengths.cu_queries,
        lengths.cu_keys,
        lengths.max_queries,
        lengths.max_keys,
        **options,
    )
    return cast(torch.Tensor, output)


def has_block_tables() -> bool:
    """Whether torch's attention reads keys through a block table."""
    return {"block_table", "seqused_k"} <= _parameters()


def _parameters() -> set[str]:
    from torch.nn.attention.varlen import varlen_attn

    return set(inspect.signature(varlen_attn).parameters)
