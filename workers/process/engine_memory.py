"""An engine's memory: its weights and its cache. Used in the engine's thread only."""

from collections.abc import Callable, Collection, Sequence

from headrace.protocol.calls import ALL_MEMORY, MemoryTag
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.runner import Runner, StepwiseRunner
from headrace.workers.memory import free_memory
from headrace.workers.sequence.sequence import Chunk, ChunkResult

KEEP_WEIGHTS, DROP_WEIGHTS = 1, 2  # levels of sleep


class EngineMemory:
    """Releases and restores an engine's memory.

    Level 1 releases the cache, and moves weights from an accelerator to host memory; on a CPU they
    are there already. Level 2 also drops the weights; waking up loads them again.

    load_runner: loads the weights again, as at the start.
    """

    def __init__(self, engine: Engine, load_runner: Callable[[], Runner]) -> None:
        self.engine = engine
        self._load_runner = load_runner
        self._missing: set[MemoryTag] = set()
        self._is_dropped = False
        self._owes_cache = False  # the runner that would hold it comes with the weights

    @property
    def missing(self) -> frozenset[MemoryTag]:
        """The parts that must be restored before the engine can run."""
        return frozenset(self._missing)

    def sleep(self, level: int) -> None:
        """Release memory. Only without work. Idempotent; a deeper sleep stays deep."""
        self._missing |= set(ALL_MEMORY)
        self._owes_cache = False
        if self._is_dropped:
            return
        self.engine.release()
        if level >= DROP_WEIGHTS:
            self.engine.replace_runner(_Dropped(self.engine.runner))
            self._is_dropped = True
        free_memory()

    def wake(self, tags: Collection[MemoryTag]) -> None:
        """Restore the named parts. Idempotent. Raises MemoryError, and what loading raises; parts
        that could not be restored are still missing."""
        wanted = self._missing & set(tags)
        if "weights" in wanted:
            self._restore_weights()
            self._missing.discard("weights")
        if "kv_cache" in wanted:
            self._missing.discard("kv_cache")
            self._owes_cache = True
        if self._owes_cache and not self._is_dropped:
            self._restore_cache()

    def _restore_weights(self) -> None:
        if not self._is_dropped:
            self.engine.restore_weights()
            return
        runner = self._load_runner()
        runner.release_cache()
        # It was sized by the memory that is free now; the engine expects the size before.
        runner.num_blocks = self.engine.runner.num_blocks
        self.engine.replace_runner(runner)
        self._is_dropped = False

    def _restore_cache(self) -> None:
        try:
            self.engine.restore_cache()
        except BaseException:
            self._missing.add("kv_cache")
            raise
        finally:
            self._owes_cache = False


class _Dropped(StepwiseRunner):
    """Stands in for a dropped runner: it has its sizes, and nothing else."""

    def __init__(self, runner: Runner) -> None:
        self.vocab_size = runner.vocab_size
        self.max_model_len = runner.max_model_len
        self.num_blocks = runner.num_blocks
        self.block_size = runner.block_size
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
