"""What the engine needs of whatever runs the model."""

from collections.abc import Sequence
from typing import Protocol

from workers.sequence import Chunk, ChunkResult


class Runner(Protocol):
    """Runs chunks of sequences and chooses their next tokens.

    vocab_size: token ids are below it.
    max_model_len: tokens of one sequence at most, prompt and output together.
    num_blocks, block_size: of the paged cache, in blocks and in tokens.
    default_step_tokens: tokens in a step that suit the device.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_model_len(self) -> int: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def block_size(self) -> int: ...

    @property
    def default_step_tokens(self) -> int: ...

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """One result for each chunk. May raise anything when the device fails; never for a
        request that the engine let in."""
        ...
