"""The interface of paged attention: what a backend implements, and how a step is described."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from headrace.workers.attention.sparse import KeyChoice
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
class Reach:
    """How far back a token attends, itself included.

    window: to the window - 1 tokens before it; None: to all.
    chunk: to those of its own chunk, position // chunk (as in Llama 4); None: to all.
    """

    window: int | None = None
    chunk: int | None = None

    def start(self, position: int) -> int:
        """Return the first position that a token at `position` attends to."""
        first = 0 if self.window is None else max(0, position + 1 - self.window)
        return first if self.chunk is None else max(first, position - position % self.chunk)

    def visible(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return which keys each query attends to, of positions that are broadcast together."""
        visible = keys <= queries
        if self.window is not None:
            visible = visible & (keys > queries - self.window)
        if self.chunk is not None:
            visible = visible & (keys // self.chunk == queries // self.chunk)
        return visible


@dataclass(frozen=True, slots=True, eq=False)
class KeyBias:
    """A bias of scores that grows with the key's position (ALiBi; Press et al., 2022).

    slopes: of each query head [heads], float32. dtype: to which slopes and products are rounded, as
    the model's authors do. factor: of the rounded products.
    """

    slopes: torch.Tensor
    dtype: torch.dtype
    factor: float

    def at(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the biases [..., heads] of keys at these positions [...], float32."""
        slopes = self.slopes.to(positions.device, self.dtype)
        return (positions.unsqueeze(-1) * slopes).float() * self.factor


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
    chunk: a token attends to the tokens before it of its own chunk; None: there are no chunks.
    key_bias: added to the scores; None: there is none.
    sparse: chooses the keys that are attended to; None: all of them are.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = field(default=None, compare=False)
    is_causal: bool = True
    bias: torch.Tensor | None = field(default=None, compare=False)
    reads_source: bool = False
    chunk: int | None = None
    key_bias: KeyBias | None = field(default=None, compare=False)
    sparse: KeyChoice | None = field(default=None, compare=False)

    @property
    def reach(self) -> Reach:
        """How far back a token attends."""
        return Reach(self.window, self.chunk)


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of the flattened batch that belong to one sequence.

    context: tokens of the sequence before its first row.
    blocks: the sequence's blocks of the cache, enough for context + num_rows tokens.
    known: all tokens of the sequence so far, also those of later steps; 0: unknown.
    state: where the sequence's recurrent state is; None: it has none.
    """

    first_row: int
    num_rows: int
    context: int
    blocks: Sequence[int]
    known: int = 0
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
