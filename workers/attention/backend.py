"""What an implementation of paged attention offers, and what it is told of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class KVLayerShape:
    """What one attention layer writes to the cache for each token: [kv_heads, *_dim] each."""

    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def elements(self) -> int:
        """Numbers cached for one token."""
        return self.kv_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """How one layer attends.

    scaling: of the scores.
    window: a token sees itself and the window - 1 before it; None: all before it.
    softcap: scores are bent by softcap * tanh(score / softcap); None: they are not.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of the flattened batch that belong to one sequence.

    first_row, num_rows: which rows.
    context: tokens of the sequence before the first of them.
    blocks: the cache's blocks of the sequence, enough for context + num_rows tokens.
    """

    first_row: int
    num_rows: int
    context: int
    blocks: Sequence[int]

    @property
    def length(self) -> int:
        """Tokens of the sequence up to the last row."""
        return self.context + self.num_rows


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """A step: first the sequences of one row each, by ascending length, then the others."""

    decodes: Sequence[Span]
    prefills: Sequence[Span]

    @property
    def num_rows(self) -> int:
        return len(self.decodes) + sum(span.num_rows for span in self.prefills)


class AttentionBackend(Protocol):
    """Holds the cache of all layers; `prepare` is called once a step, the others once a layer."""

    def prepare(self, batch: AttentionBatch) -> None:
        """Take the step's block tables; everything that is the same in all layers is made here."""
        ...

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put the rows' keys [rows, kv_heads, key_dim] and values into the cache."""
        ...

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        """Attention of query [rows, heads, key_dim] to each row's sequence, after `write`.

        key and value are what was written. Returns [rows, heads, value_dim].
        """
        ...


class BackendFactory(Protocol):
    """Makes a backend with an empty cache; SdpaBackend is one such."""

    def __call__(
        self,
        layers: Sequence[KVLayerShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> AttentionBackend: ...
