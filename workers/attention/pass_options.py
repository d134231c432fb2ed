"""What some models of transformers must be given besides tokens and positions.

Our attention needs neither masks nor caches of transformers, and none is made for it. But some
models compute something of their own from them.
"""

from typing import Any

import torch

# Modules that compute positions from the length of a cache, whatever positions they are given.
_POSITIONS_FROM_CACHE = frozenset({"Llama4TextAttention"})
# Modules that take a part of a mask, or convert it, without a look whether there is one.
_MASKED = frozenset({
    "DeepseekV32Attention", "GlmMoeDsaAttention", "AXK2Attention", "HYV4Attention",
    "Dots3NoteTextAttention", "MptAttention",
})  # fmt: skip


class PositionsCache:
    """Stands for a cache of transformers whose length is another one for each row.

    A model that adds that length to the numbers of its rows gets the rows' positions.

    positions: of the rows [1, rows].
    """

    is_compileable = False

    def __init__(self, positions: torch.Tensor) -> None:
        rows = positions.shape[1]
        self._lengths = positions[0] - torch.arange(rows, device=positions.device)

    def get_seq_length(self, layer_idx: int = 0) -> torch.Tensor:
        """Return the tokens before the batch's first one, as if all were of its sequence [rows]."""
        return self._lengths

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, **options: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows' own keys and values: the attention keeps them."""
        return key, value


class PassOptions:
    """The options of a model's forward pass, by the modules that it has."""

    def __init__(self, model: torch.nn.Module) -> None:
        names = {type(module).__name__ for module in model.modules()}
        self._has_positions_cache = not names.isdisjoint(_POSITIONS_FROM_CACHE)
        self._has_mask = not names.isdisjoint(_MASKED)

    @staticmethod
    def gives_mask(module: torch.nn.Module) -> bool:
        """Return whether the mask that a layer passes on is the one that stands for none."""
        return type(module).__name__ in _MASKED

    def of(self, positions: torch.Tensor) -> dict[str, Any]:
        """Return the options of a pass on rows at these positions [1, rows]."""
        options: dict[str, Any] = {"use_cache": False}
        if self._has_positions_cache:
            options["cache"] = PositionsCache(positions)
        if self._has_mask:  # returned as it is by transformers, and ignored by our attention
            options["attention_mask"] = torch.zeros((1, 1, 1, 1), device=positions.device)
        return options
