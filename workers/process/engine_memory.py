"""What of an engine is in memory: its weights and its cache. Used in the engine's thread only."""

from collections.abc import Callable, Collection, Sequence
from typing import Literal, get_args

from headrace.workers.engine.engine import Engine
from headrace.workers.engine.runner import Runner, StepwiseRunner
from headrace.workers.memory import free_memory
from headrace.workers.sequence.sequence import Chunk, ChunkResult

Tag = Literal["weights", "kv_cache"]
TAGS: tuple[Tag, ...] = get_args(Tag)
KEEP_WEIGHTS, DROP_WEIGHTS = 1, 2  # levels of sleep


class Residence:
    """Lets an engine sleep and wakes it.

    Level 1 gives the cache's memory back, and moves weights from an accelerator to the host's
    memory; on a CPU they are there already. Level 2 drops them, too: they are loaded again to wake.

    load_runner: loads the weights again, as for a start.
    """

    def __init__(self, engine: Engine, load_runner: Callable[[], Runner]) -> None:
        self.engine = engine
        self._load_runner = load_runner
        self._missing: set[Tag] = set()
        self._is_dropped = False
        self._owes_cache = False  # a runner holds it, which comes with the weights

    @property
    def missing(self) -> frozenset[Tag]:
        """What has to be brought back before the engine can run."""
        return frozenset(self._missing)

    def sleep(self, level: int) -> None:
        """Only without work. Harmless twice, and a deeper sleep stays one."""
        self._missing |= set(TAGS)
        self._owes_cache = False
        if self._is_dropped:
            return
        self.engine.release()
        if level >= DROP_WEIGHTS:
            self.engine.replace_runner(_Dropped(self.engine.runner))
            self._is_dropped = True
        free_memory()

    def wake(self, tags: Collection[Tag]) -> None:
        """Bring back what is named. Harmless twice. MemoryError, and what loading raises; what
        could not be brought back is still missing."""
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
        # It has chosen by the memory that is free now; the engine counts on what it had.
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
    """Stands for a runner that is no more: it has its size, and nothing else."""

    def __init__(self, runner: Runner) -> None:
        self.vocab_size = runner.vocab_size
        self.max_model_len = runner.max_model_len
        self.num_blocks = runner.num_blocks
        self.block_size = runner.block_size
        self.default_step_tokens = runner.default_step_tokens
        self.overlaps = runner.overlaps

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        raise RuntimeError("the weights have been dropped")

    @property
    def weight_bytes(self) -> int:
        return 0

    @property
    def cache_bytes(self) -> int:
        return 0

    def release_cache(self) -> None:
        """It has none."""

    def restore_cache(self) -> None:
        raise RuntimeError("the weights have been dropped")
