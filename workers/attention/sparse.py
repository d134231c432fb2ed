"""Sparse attention: a layer attends to the keys that score best with an indexer.

The indexers of DeepSeek V3.2 ("DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models",
2025) and of models like it have queries, and a key for each token, of their own. A key's score is
the weighted sum, over the indexer's heads, of the positive parts of its products with the queries.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


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


@dataclass(frozen=True, slots=True, eq=False)
class SparseQuery:
    """What chooses the keys that rows attend to.

    layer: the number of the cache's layer that holds the indexer's keys, as heads of one.
    query: of the rows [rows, heads, dim]. weights: of the heads [rows, heads], float32.
    count: how many keys a row attends to.
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
        products = torch.einsum("qhd,kd->qhk", query, keys.float()).relu_()
        scores = torch.einsum("qhk,qh->qk", products, weights)
        best = scores.masked_fill_(~visible, float("-inf")).topk(self.count, dim=-1).indices
        return torch.zeros_like(visible).scatter_(1, best, True) & visible


def find_indexers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the modules that choose keys."""
    return [module for module in model.modules() if type(module).__name__ in _LAYOUTS]


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
