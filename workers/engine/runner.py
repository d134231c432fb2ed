"""The interface between the engine and what runs the model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult

# A token that was sampled by the last launch, and that only the device knows yet.
PENDING_TOKEN = -1


class LaunchedStep(Protocol):
    """A step that has been launched."""

    def results(self) -> list[ChunkResult]:
        """Wait for the step and return one result for each chunk. Call once."""
        ...


class Runner(Protocol):
    """Runs chunks of sequences and samples their next tokens.

    vocab_size: token ids are below it.
    max_model_len: the most tokens of one sequence, prompt and output together.
    num_blocks, block_size: of the paged cache, in blocks and in tokens.
    num_state_slots: slots for states of recurrent layers, one for each running sequence and the
        others for snapshots; 0: the model has no such layers.
    switch_length: a sequence of more tokens than that has other rotary frequencies, also for its
        first tokens; None: all have the same.
    default_step_tokens: how many tokens in a step suit the device.
    overlaps: whether a step can be launched while the one before it is running.
    on_progress: a runner whose steps may take long calls it within them, if it is given.
    """

    on_progress: Callable[[], None] | None

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_model_len(self) -> int: ...

    num_blocks: int

    @property
    def block_size(self) -> int: ...

    num_state_slots: int

    @property
    def switch_length(self) -> int | None: ...

    @property
    def default_step_tokens(self) -> int: ...

    @property
    def overlaps(self) -> bool: ...

    @property
    def weight_bytes(self) -> int | None:
        """Memory of the weights in bytes; None if unknown."""
        ...

    @property
    def cache_bytes(self) -> int | None:
        """Memory of the cache in bytes, 0 without one; None if unknown."""
        ...

    @property
    def cache_dtype(self) -> str:
        """Type of the numbers in the cache; empty if it holds none."""
        ...

    def launch(self, chunks: Sequence[Chunk]) -> LaunchedStep:
        """Start a step without waiting for it.

        If the runner overlaps, one step may be launched before the results of the one before it
        are collected. The last token of a chunk may then be PENDING_TOKEN, if its sequence was
        sampled in the step before. Steps touch the cache in the order of their launches.
        """
        ...

    def release_cache(self) -> None:
        """Release the cache's memory; nothing is run until `restore_cache`. Harmless twice."""
        ...

    def restore_cache(self) -> None:
        """Allocate an empty cache again. Harmless twice.

        Raises MemoryError if there is no memory for it.
        """
        ...

    def offload_weights(self) -> None:
        """Move weights from an accelerator's memory to the host's. Harmless twice.

        The cache must have been released. Does nothing on a CPU.
        """
        ...

    def restore_weights(self) -> None:
        """Move weights back. Harmless twice.

        Raises MemoryError if there is no memory for them.
        """
        ...

    def new_adapters(self, max_rank: int) -> EngineAdapters | None:
        """Return an empty store of adapters for this model; None if it supports none."""
        ...

    def use_adapters(self, adapters: EngineAdapters) -> None:
        """Look the requests' adapters up in this store from now on."""
        ...

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Run a step and return one result for each chunk.

        May raise anything if the device fails, but never because of a request that was admitted.
        """
        ...


class CompletedStep:
    """A step that was over when its launch returned."""

    def __init__(self, results: list[ChunkResult]) -> None:
        self._results = results

    def results(self) -> list[ChunkResult]:
        return self._results


class StepwiseRunner(ABC):
    """Base of runners that run one step after the other."""

    overlaps = False
    num_state_slots = 0
    switch_length: int | None = None
    on_progress: Callable[[], None] | None = None

    @abstractmethod
    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Run a step and return its results (see Runner.run)."""

    def launch(self, chunks: Sequence[Chunk]) -> LaunchedStep:
        return CompletedStep(self.run(chunks))

    @property
    def weight_bytes(self) -> int | None:
        return None

    @property
    def cache_bytes(self) -> int | None:
        return None

    @property
    def cache_dtype(self) -> str:
        return ""

    def offload_weights(self) -> None:
        """Do nothing: the weights are in the host's memory."""
        return

    def restore_weights(self) -> None:
        """Do nothing: the weights were not moved."""
        return

    def new_adapters(self, max_rank: int) -> EngineAdapters | None:
        return None

    def use_adapters(self, adapters: EngineAdapters) -> None:
        """Do nothing: this runner supports no adapters."""
        return
