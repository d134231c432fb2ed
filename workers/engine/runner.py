"""What the engine needs of whatever runs the model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult

# Stands for a token that is known only to the device yet: the one that the launch before chose.
PENDING_TOKEN = -1


class LaunchedStep(Protocol):
    """A step that has been started."""

    def results(self) -> list[ChunkResult]:
        """One result for each chunk, once they are there. To be called once."""
        ...


class Runner(Protocol):
    """Runs chunks of sequences and chooses their next tokens.

    vocab_size: token ids are below it.
    max_model_len: tokens of one sequence at most, prompt and output together.
    num_blocks, block_size: of the paged cache, in blocks and in tokens.
    default_step_tokens: tokens in a step that suit the device.
    overlaps: whether a step can be launched while the one before it is running.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_model_len(self) -> int: ...

    num_blocks: int

    @property
    def block_size(self) -> int: ...

    @property
    def default_step_tokens(self) -> int: ...

    @property
    def overlaps(self) -> bool: ...

    @property
    def weight_bytes(self) -> int | None:
        """Memory of the weights; None if it is not known."""
        ...

    @property
    def cache_bytes(self) -> int | None:
        """Memory of the cache, 0 without one; None if it is not known."""
        ...

    def launch(self, chunks: Sequence[Chunk]) -> LaunchedStep:
        """Start a step and do not wait for it.

        If the runner overlaps, one step may be launched before the results of the one before it
        are asked for. The last token of a chunk may then be PENDING_TOKEN, if its sequence was
        sampled in the step before. Steps touch the cache in the order of their launches.
        """
        ...

    def release_cache(self) -> None:
        """Give the cache's memory back; nothing is run until `restore_cache`. Harmless twice."""
        ...

    def restore_cache(self) -> None:
        """Have an empty cache again. MemoryError if there is no memory for it. Harmless twice."""
        ...

    def offload_weights(self) -> None:
        """Move weights from an accelerator's memory to the host's, once there is no cache; nothing
        on a CPU, whose memory is that already. Harmless twice."""
        ...

    def restore_weights(self) -> None:
        """Move them back. MemoryError if there is no memory for them. Harmless twice."""
        ...

    def new_adapters(self, max_rank: int) -> EngineAdapters | None:
        """An empty store of adapters for this model; None if it can have none."""
        ...

    def use_adapters(self, adapters: EngineAdapters) -> None:
        """Find the requests' adapters there from now on."""
        ...

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """One result for each chunk. May raise anything when the device fails; never for a
        request that the engine let in."""
        ...


class CompletedStep:
    """A step that was over when its launch returned."""

    def __init__(self, results: list[ChunkResult]) -> None:
        self._results = results

    def results(self) -> list[ChunkResult]:
        return self._results


class StepwiseRunner(ABC):
    """What a runner inherits that runs one step after the other."""

    overlaps = False

    @abstractmethod
    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """See Runner.run."""

    def launch(self, chunks: Sequence[Chunk]) -> LaunchedStep:
        return CompletedStep(self.run(chunks))

    @property
    def weight_bytes(self) -> int | None:
        return None

    @property
    def cache_bytes(self) -> int | None:
        return None

    def offload_weights(self) -> None:
        """As on a CPU: they are in the host's memory already."""
        return

    def restore_weights(self) -> None:
        """They are where they are run."""
        return

    def new_adapters(self, max_rank: int) -> EngineAdapters | None:
        return None

    def use_adapters(self, adapters: EngineAdapters) -> None:
        """It runs none."""
        return
