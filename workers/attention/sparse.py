"""Sparse attention: a layer attends to the keys that score best with an indexer.

The indexers of DeepSeek V3.2 ("DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models",
2025) and of models like it have queries, and a key for each token, of their own. A key's score is
the weighted sum, over the indexer's heads, of the positive parts of its products with the queries.
Those of MiniMax M3 choose blocks of keys, for each head of keys apart, by a block's best product.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from headrace.workers.errors import ModelUnsupported


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an indexer rotates its heads: the first or the last numbers, in pairs of neighbours or
    of halves."""

    rotates_first: bool
    by_neighbours: bool


_LAYOUTS = {
    "DeepseekV32Indexer": _Layout(True, False),
    "AXK2Indexer": _Layout(True, False),
    "HYV4Indexer": _Layout(False, False),
    "GlmMoeDsaIndexer": _Layout(True, True),
    "Dots3NoteTextIndexer": _Layout(True, True),
}


_MAX_PRODUCTS = 16 * 1024 * 1024  # numbers at once, of many rows with many keys
_BLOCK_INDEXER = "MiniMaxM3VLIndexer"


class KeyChoice(Protocol):
    """What chooses the keys that a step's rows attend to.

    layer: the number of the cache's layer that holds the indexer's keys, as heads of one.
    count: how many keys a row attends to.
    """

    @property
    def layer(self) -> int: ...

    @property
    def count(self) -> int: ...

    def choose(self, rows: slice, keys: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Return which of the visible keys are attended to [rows, keys] or [kv_heads, rows, keys].

        rows: of the step, all of one sequence. keys: of that sequence [keys, dim].
        visible: for the rows [rows, keys].
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class BlockChoice:
    """Chooses blocks of block_size keys: the `local` last ones of a row and the best others.

    query: of the rows [rows, kv_heads, dim]. blocks: how many are chosen.
    """

    layer: int
    query: torch.Tensor
    block_size: int
    blocks: int
    local: int

    @property
    def count(self) -> int:
        return self.blocks * self.block_size

    def choose(self, rows: slice, keys: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        if keys.shape[0] <= self.count:
            return visible
        query = self.query[rows].float().transpose(0, 1)
        products = torch.matmul(query, keys.float().t()).masked_fill_(~visible, float("-inf"))
        missing = -keys.shape[0] % self.block_size
        padded = torch.nn.functional.pad(products, (0, missing), value=float("-inf"))
        best = padded.view(*padded.shape[:2], -1, self.block_size).amax(dim=-1)
        own = (visible.sum(dim=-1, keepdim=True) - 1) // self.block_size
        local = (own - torch.arange(self.local, device=own.device)).clamp_(min=0)
        best.scatter_(-1, local.expand(len(best), -1, -1), float("inf"))
        chosen = best.topk(self.blocks, dim=-1).indices
        mask = torch.zeros_like(best, dtype=torch.bool).scatter_(-1, chosen, True)
        return mask.repeat_interleave(self.block_size, dim=-1)[..., : keys.shape[0]] & visible


@dataclass(frozen=True, slots=True, eq=False)
class SparseQuery:
    """Chooses the keys with the best scores.

    query: of the rows [rows, heads, dim]. weights: of the heads [rows, heads], float32.
    """

    layer: int
    query: torch.Tensor
    weights: torch.Tensor
    count: int

    def choose(self, rows: slice, keys: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Return which of the visible keys are attended to [rows, keys].

        keys: of one sequence [keys, dim]. visible: for the rows [rows, keys].
        """
        if keys.shape[0] <= self.count:
            return visible
        query, weights = self.query[rows].float(), self.weights[rows]
        scores = _scores(query, keys.float(), weights).masked_fill_(~visible, float("-inf"))
        best = _best(scores, self.count)
        return torch.zeros_like(visible).scatter_(1, best, True) & visible


def _scores(query: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the keys' scores [rows, keys]."""
    rows, heads, _ = query.shape
    step = max(1, _MAX_PRODUCTS // (heads * len(keys)))
    scores = query.new_empty((rows, len(keys)))
    for first in range(0, rows, step):
        part = slice(first, first + step)
        products = torch.einsum("qhd,kd->qhk", query[part], keys).relu_()
        scores[part] = torch.bmm(weights[part].unsqueeze(1), products).squeeze(1)
    return scores


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the places of the best scores of each row [rows, count].

    Of equal ones, as of keys without a positive product, torch chooses any, which differ with the
    number of keys; the self-check could not compare that.
    """
    if _ties.by_position:
        return scores.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    return scores.topk(count, dim=-1).indices


class _Ties:
    """Which of equally good keys are chosen."""

    by_position = False


_ties = _Ties()


@contextmanager
def ties_by_position() -> Iterator[None]:
    """Choose the first of equally good keys within the context, also in transformers' own pass."""
    _ties.by_position = True
    try:
        yield
    finally:
        _ties.by_position = False


def run_indexer(module: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Run an indexer as transformers does: the places of the chosen keys [1, rows, keys].

    Raises ModelUnsupported if it scores keys in another way than `index_rows`.
    """
    chosen: torch.Tensor = type(module).forward(module, *args, **kwargs)
    if not _ties.by_position or type(module).__name__ == _BLOCK_INDEXER:
        return chosen
    hidden, compressed, tables, mask = args[:4]
    query, keys, weights = index_rows(module, hidden, compressed, tables)
    scores = _scores(query.float(), keys.float(), weights)
    hidden_keys = ~mask[0] if mask.dtype == torch.bool else mask[0] < 0
    scores = scores.masked_fill(hidden_keys, torch.finfo(scores.dtype).min)
    best = _best(scores, chosen.shape[2])
    theirs, ours = scores.gather(1, chosen[0].long()), scores.gather(1, best)
    theirs = theirs.sort(dim=-1, descending=True).values
    if not torch.allclose(theirs, ours, rtol=1e-3, atol=1e-3 * float(query.std())):
        raise ModelUnsupported(f"{type(module).__name__} scores its keys in a way of its own")
    return best.unsqueeze(0).to(chosen.dtype)


def find_indexers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the modules that choose keys."""
    names = {*_LAYOUTS, _BLOCK_INDEXER}
    return [module for module in model.modules() if type(module).__name__ in names]


def start_choice(module: Any, *args: Any) -> tuple[torch.Tensor, Callable[[int], KeyChoice]]:
    """Compute an indexer's keys [rows, dim], and what makes the choice, of the number of the
    cache's layer for these keys.

    args: of the indexer's forward pass.
    """
    if type(module).__name__ == _BLOCK_INDEXER:
        hidden, tables = args[:2]
        query, key = _block_rows(module, hidden, tables)
        sizes = (module.block_size, module.topk_blocks, module.local_blocks)
        return key, lambda layer: BlockChoice(layer, query, *sizes)
    query, key, weights = index_rows(module, *args[:3])
    return key, lambda layer: SparseQuery(layer, query, weights, module.index_topk)


def _block_rows(
    module: Any, hidden: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute queries [rows, heads, dim] and keys [rows, dim] of an indexer of blocks."""
    size = module.head_dim
    query = module.q_norm(module.q_proj(hidden).unflatten(-1, (-1, size)))
    key = module.k_norm(module.k_proj(hidden).unflatten(-1, (1, size)))
    rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
    cosines, sines = (table[..., :size] for table in tables)
    query, key = rotate(query, key, cosines, sines, unsqueeze_dim=2)
    return query[0], key[0, :, 0]


def index_rows(
    module: Any, hidden: torch.Tensor, compressed: torch.Tensor, tables: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute an indexer's queries [rows, heads, dim], keys [rows, dim] and weights [rows, heads].

    hidden: [1, rows, width]. compressed: the rows' compressed queries [1, rows, rank].
    tables: cosines and sines of the rows.
    """
    query = module.wq_b(compressed).unflatten(-1, (module.n_heads, module.head_dim))
    norm = module.k_norm
    key = norm(module.wk(hidden).to(norm.weight.dtype)).to(hidden.dtype).unsqueeze(2)
    query, key = _rotate(module, query, key, tables)
    projection = module.weights_proj
    weights = projection(hidden.to(projection.weight.dtype)).float()
    factor = module.n_heads**-0.5 * module.softmax_scale
    return query[0], key[0, :, 0], weights[0] * factor


def _rotate(
    module: Any, query: torch.Tensor, key: torch.Tensor, tables: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    layout = _LAYOUTS[type(module).__name__]
    size = module.qk_rope_head_dim
    at = 0 if layout.rotates_first else module.head_dim - size
    rotate = _rotation(module, layout)
    rotated = rotate(query[..., at : at + size], key[..., at : at + size], *tables, unsqueeze_dim=2)
    query, key = (
        torch.cat([whole[..., :at], part, whole[..., at + size :]], dim=-1)
        for whole, part in zip((query, key), rotated, strict=True)
    )
    return query, key


def _rotation(module: Any, layout: _Layout) -> Callable[..., Any]:
    """Return the model's own function that rotates queries and keys."""
    name = "apply_rotary_pos_emb" + ("_interleave" if layout.by_neighbours else "")
    function: Callable[..., Any] = getattr(sys.modules[type(module).__module__], name)
    return function
