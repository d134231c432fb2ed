"""The interface of paged attention: what a backend implements, and how a step is described."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from headrace.workers.sequence.state_use import StateUse


@dataclass(frozen=True, slots=True)
class KVLayerShape:
    """The key and value that an attention layer caches for each token: [kv_heads, *_dim] each."""

    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def elements(self) -> int:
        """Numbers that are cached for one token."""
        return self.kv_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """The attention parameters of one layer.

    scaling: factor of the scores.
    window: a token attends to itself and the window - 1 tokens before it; None: to all before it.
    softcap: scores become softcap * tanh(score / softcap); None: they are not capped.
    sinks: a score for each query head [heads], of a token without a value, which takes its share of
        the weights (Xiao et al., 2023); None: there is none.
    is_causal: False: a token attends to those after it, too; with a window, to all that are less
        than `window` away.
    reads_source: whether it attends to what an encoder made for the sequence instead.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = field(default=None, compare=False)
    is_causal: bool = True
    bias: torch.Tensor | None = field(default=None, compare=False)
    reads_source: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of the flattened batch that belong to one sequence.

    context: tokens of the sequence before its first row.
    blocks: the sequence's blocks of the cache, enough for context + num_rows tokens.
    state: where the sequence's recurrent state is; None: it has none.
    """

    first_row: int
    num_rows: int
    context: int
    blocks: Sequence[int]
    state: StateUse | None = None

    @property
    def length(self) -> int:
        """Tokens of the sequence up to and including the last row."""
        return self.context + self.num_rows


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """A step's sequences: first those of one row each, by ascending length, then the others."""

    decodes: Sequence[Span]
    prefills: Sequence[Span]

    @property
    def num_rows(self) -> int:
        return len(self.decodes) + sum(span.num_rows for span in self.prefills)


class AttentionBackend(Protocol):
    """Paged attention with the cache of all layers.

    `prepare` is called once for a step, the other methods once for each layer.
    """

    def prepare(self, batch: AttentionBatch) -> None:
        """Prepare a step: compute everything that is the same in all layers."""
        ...

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write the rows' keys [rows, kv_heads, key_dim] and values to the cache."""
        ...

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        """Compute the attention of query [rows, heads, key_dim] to each row's sequence.

        Called after `write`, with the key and value that were written. Returns
        [rows, heads, value_dim].
        """
        ...


class BackendFactory(Protocol):
    """A constructor of backends with an empty cache, such as SdpaBackend."""

    def __call__(
        self,
        layers: Sequence[KVLayerShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> AttentionBackend: ...
