"""What the process around an engine needs of it, whatever the engine's model does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from headrace.protocol.pooling import Task
from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import EngineRequest


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges and cumulative counters of one engine.

    running, waiting: requests in the batch and in the queue.
    blocks_used, blocks_total: of the K/V cache; used are those that a running request holds.
    steps: since the start.
    prefix_queried, cached_tokens: prompt tokens looked up and found in the prefix cache.
    prompt_tokens: prompt tokens run, recomputed ones included.
    generated_tokens: tokens sampled.
    step_tokens: tokens run in the last step.
    drafts, draft_tokens, accepted_tokens: drafts run, the tokens in them, and how many of these
        were accepted.
    accepted_by_position: drafts of which at least the first 1, 2, … tokens were accepted.
    ended_by_preemptions: requests that have ended, by how often they were preempted: 0, 1, …; the
        last element counts all that were preempted as often or more.
    """

    running: int
    waiting: int
    blocks_used: int
    blocks_total: int
    steps: int
    prefix_queried: int
    cached_tokens: int
    preemptions: int
    prompt_tokens: int
    generated_tokens: int
    step_tokens: int
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: tuple[int, ...] = ()
    ended_by_preemptions: tuple[int, ...] = ()


class CacheSize(NamedTuple):
    """The size of a K/V cache.

    block_size: tokens in a block. dtype: of the cached numbers; empty if there are none.
    """

    num_blocks: int
    block_size: int
    dtype: str = ""


class ReplicaEngine(Protocol):
    """An engine with one replica of a model. Single-threaded.

    tasks: what the model does.
    on_progress: an engine whose steps may take long calls it within them.
    """

    @property
    def tasks(self) -> tuple[Task, ...]: ...

    on_progress: Callable[[], None] | None

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises RejectedByEngine, keeping nothing of it, if it cannot be run."""
        ...

    def abort(self, request_id: str) -> None:
        """Drop a request; no output of it follows. Unknown ids are harmless."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        ...

    def step(self) -> list[Output]:
        """Run one step; return its outputs. Raises any exception of the runner, after which the
        engine must not be used again."""
        ...

    def load(self) -> WorkerLoad:
        """Return how busy the engine is. `step_age_s` is filled in by the thread that watches."""
        ...

    def stats(self) -> EngineStats:
        """Return the gauges and counters as of now."""
        ...

    @property
    def cache_size(self) -> CacheSize:
        """The size of the K/V cache."""
        ...

    def memory_use(self) -> tuple[int | None, int | None]:
        """Return the bytes of the weights and of the cache; None: unknown."""
        ...

    def reset_prefix_cache(self, recompute_running: bool = False) -> None:
        """Forget all cached prefixes. recompute_running: run running requests from their first
        token again."""
        ...

    # Memory

    def release(self) -> None:
        """Release the cache's memory, and an accelerator's memory of the weights. There must be no
        requests, and none may be added until all is restored."""
        ...

    def drop_weights(self) -> None:
        """Release the weights, too, which `restore_runner` brings back; after `release`."""
        ...

    def restore_runner(self, runner: Any) -> None:
        """Continue with a runner of its kind that has the weights again, and no cache yet."""
        ...

    def restore_weights(self) -> None:
        """Restore offloaded weights. Raises MemoryError if there is no memory for them."""
        ...

    def restore_cache(self) -> None:
        """Allocate an empty cache again. Raises MemoryError if there is no memory for it."""
        ...

    # Adapters

    @property
    def adapter_ids(self) -> frozenset[str]:
        """The adapters that requests can name."""
        ...

    def add_adapter(self, adapter_id: str, folder: Path) -> None:
        """Load the adapter in a folder. Raises AdapterError if it does not fit the model."""
        ...

    def read_adapter(self, folder: Path) -> Any:
        """Read an adapter for `put_adapter`; safe in any thread. Raises AdapterError."""
        ...

    def put_adapter(self, adapter_id: str, adapter: Any) -> None:
        """Let requests name an adapter that `read_adapter` returned."""
        ...

    def remove_adapter(self, adapter_id: str) -> None:
        """Unload an adapter. Raises AdapterError if a request uses it."""
        ...
