"""What runs a model that transcribes, and what its runner must know of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from headrace.workers.attention.backend import AttentionBatch


@dataclass(frozen=True, slots=True)
class SpeechFacts:
    """Sizes of a model that transcribes.

    mel_bins, frames: of a window's features. positions: vectors that the encoder makes of them.
    longest: tokens of prompt and output together, at most.
    heads: layers and heads of the decoder whose attention follows the speech.
    size: numbers of the encoder's vectors. position_s: seconds between two positions.
    """

    vocab_size: int
    mel_bins: int
    frames: int
    positions: int
    longest: int
    heads: tuple[tuple[int, int], ...]
    size: int
    position_s: float


@dataclass(frozen=True, slots=True)
class DecoderRows:
    """A step of the decoder: rows of tokens, as in headrace.workers.sampling.batch.FlatBatch.

    wanted: the rows whose logits are needed. slots: of the window of each of the batch's spans.
    wants_scores: whether the scores of the model's heads are needed.
    """

    token_ids: Sequence[int]
    positions: Sequence[int]
    wanted: Sequence[int]
    batch: AttentionBatch
    slots: Sequence[int]
    wants_scores: bool = False


class SpeechBacking(Protocol):
    """Both halves of a model, with the caches of the decoder."""

    @property
    def weight_bytes(self) -> int | None:
        """Memory of the weights in bytes."""
        ...

    @property
    def cache_bytes(self) -> int | None:
        """Memory of the caches in bytes, 0 without them."""
        ...

    @property
    def cache_dtype(self) -> str:
        """Type of the numbers in the caches."""
        ...

    def start(self, num_blocks: int, num_slots: int) -> None:
        """Allocate caches of so many blocks, and slots for windows. Harmless twice.

        Raises MemoryError if there is no memory.
        """
        ...

    def stop(self) -> None:
        """Release the caches. Harmless twice."""
        ...

    def encode(self, features: torch.Tensor, slot: int) -> None:
        """Encode a window's features [mel bins, frames], float32, into a slot."""
        ...

    def decode(self, rows: DecoderRows) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return a step's logits [wanted rows, vocabulary], and the scores of the model's heads
        [heads, rows, positions], as exponents of two, if they are wanted."""
        ...

    def offload_weights(self) -> None:
        """Move weights from an accelerator's memory to the host's. Harmless twice."""
        ...

    def restore_weights(self) -> None:
        """Move weights back. Harmless twice. Raises MemoryError if there is no memory for them."""
        ...
