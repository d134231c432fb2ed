"""Stand in for a runner whose weights have been dropped."""

from collections.abc import Sequence

from headrace.workers.engine.runner import Runner, StepwiseRunner
from headrace.workers.sequence.sequence import Chunk, ChunkResult


class DroppedRunner(StepwiseRunner):
    """Stands in for a dropped runner: it has its sizes, and nothing else."""

    def __init__(self, runner: Runner) -> None:
        self.vocab_size = runner.vocab_size
        self.max_model_len = runner.max_model_len
        self.num_blocks = runner.num_blocks
        self.block_size = runner.block_size
        self.num_state_slots = runner.num_state_slots
        self.switch_length = runner.switch_length
        self.default_step_tokens = runner.default_step_tokens
        self.overlaps = runner.overlaps
        self._cache_dtype = runner.cache_dtype

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        raise RuntimeError("the weights have been dropped")

    @property
    def weight_bytes(self) -> int:
        return 0

    @property
    def cache_bytes(self) -> int:
        return 0

    @property
    def cache_dtype(self) -> str:
        return self._cache_dtype

    def release_cache(self) -> None:
        """Do nothing: it has none."""

    def restore_cache(self) -> None:
        raise RuntimeError("the weights have been dropped")
