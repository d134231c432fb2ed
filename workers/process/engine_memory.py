"""An engine's memory: its weights and its cache. Used in the engine's thread only."""

from collections.abc import Callable, Collection
from typing import Any

from headrace.protocol.calls import ALL_MEMORY, MemoryTag
from headrace.workers.engine.replica_engine import ReplicaEngine
from headrace.workers.memory import free_memory

KEEP_WEIGHTS, DROP_WEIGHTS = 1, 2  # levels of sleep


class EngineMemory:
    """Releases and restores an engine's memory.

    Level 1 releases the cache, and moves weights from an accelerator to host memory; on a CPU they
    are there already. Level 2 also drops the weights; waking up loads them again.

    load_runner: loads the weights again, as at the start.
    """

    def __init__(self, engine: ReplicaEngine, load_runner: Callable[[], Any]) -> None:
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
            self.engine.drop_weights()
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
        self.engine.restore_runner(self._load_runner())
        self._is_dropped = False

    def _restore_cache(self) -> None:
        try:
            self.engine.restore_cache()
        except BaseException:
            self._missing.add("kv_cache")
            raise
        finally:
            self._owes_cache = False
