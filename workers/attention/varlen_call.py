"""Call torch's variable-length attention (FlashAttention, CUDA only); nothing else does.

Its features differ by version: torch 2.11 has no block tables, 2.12 has them, and accepts a number
of splits only for kernels that it does not ship. The signature shows whether there are tables; the
rest is tested in varlen_check.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of sequences; 32-bit integers on the device.

    cu_queries, cu_keys: [sequences + 1], cumulative numbers of rows and of keys.
    max_queries, max_keys: the maxima over the sequences.
    """

    cu_queries: torch.Tensor
    cu_keys: torch.Tensor
    max_queries: int
    max_keys: int


@dataclass(frozen=True, slots=True)
class Pages:
    """The block tables of sequences; 32-bit integers on the device.

    used: [sequences], the keys of each. table: [sequences, pages], their pages in order.
    """

    used: torch.Tensor
    table: torch.Tensor


class VarlenAttention(Protocol):
    """A function that computes the attention of each sequence's rows to its own keys."""

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
        """Attend: query [rows, heads, dim] → [rows, heads, dim].

        key, value: [keys, kv_heads, dim], or with pages [pages, page_size, kv_heads, dim].
        window: the keys before and after a row that it attends to, -1 for all; a sequence's last
            row is at its last key.
        num_splits: parts that a sequence's keys are split into; None: any number.
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
    """Call torch's attention; see VarlenAttention. Raises TypeError if it lacks a parameter."""
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
    """Return whether torch's attention reads keys through a block table."""
    return {"block_table", "seqused_k"} <= _parameters()


def _parameters() -> set[str]:
    from torch.nn.attention.varlen import varlen_attn

    return set(inspect.signature(varlen_attn).parameters)
