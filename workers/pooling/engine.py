"""Run one replica of a model that pools: take texts, run many of them whole, return numbers.

Single-threaded. A step is as the generating engine's: schedule, run, postprocess. A text runs in
one step from its first token to its last, so that there is no cache, and the only order is that of
the queue. Only where the operator allows longer texts than the model takes, these run in pieces.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.protocol.pooling import Task
from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import Admission, Output
from headrace.protocol.to_worker import Encode, EngineRequest
from headrace.workers.engine.replica_engine import CacheSize, EngineStats
from headrace.workers.engine.waiting_queue import WaitingQueue
from headrace.workers.errors import AdapterError, EngineFailed, RejectedByEngine
from headrace.workers.pooling.check_encode import check_encode
from headrace.workers.pooling.chunks import TextPieces, mean_of
from headrace.workers.pooling.runner import EncodeResult, PoolingRunner
from headrace.workers.pooling.token_budget import TokenBudget
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.queued_request import QueuedRequest
from headrace.workers.sequence.sequence import Failure


@dataclass(slots=True, eq=False)
class QueuedText(QueuedRequest):
    """A text that waits to be run. seconds: that its pieces have taken so far."""

    request: Encode
    pieces: TextPieces
    seconds: float = 0.0


class PoolingEngine:
    """Runs texts on a runner, many at a time: a ReplicaEngine whose model pools.

    max_num_seqs, max_num_batched_tokens: texts and tokens of a step at most. A longer text runs by
        itself. adapters: for the runner; None: requests with an adapter are rejected. clock:
        measures steps, by which their tokens are bounded.
    """

    def __init__(
        self,
        runner: PoolingRunner,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        adapters: EngineAdapters | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner: PoolingRunner | None = runner
        self._limits = runner.limits
        self.tasks: tuple[Task, ...] = runner.limits.tasks
        self.on_progress: Callable[[], None] | None = None
        self.failed = False
        self._max_texts = max_num_seqs
        self._budget = TokenBudget(max_num_batched_tokens)
        self._clock = clock
        self._queue = WaitingQueue[QueuedText]()
        self._texts: dict[str, QueuedText] = {}
        self._arrivals = self._steps = self._tokens = self._step_tokens = self._ended = 0
        self._last_batch = 0
        self._adapters = adapters
        if adapters is not None:
            runner.use_adapters(adapters)

    @property
    def runner(self) -> PoolingRunner:
        """The runner of the next step."""
        assert self._runner is not None, "the weights have been dropped"
        return self._runner

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises RejectedByEngine, keeping nothing of it, if it cannot be run."""
        if self.failed:
            raise EngineFailed("the engine has failed")
        if not isinstance(request, Encode):
            does = ", ".join(self.tasks)
            raise RejectedByEngine(
                f"task: this model generates no text, it does {does}", retry_elsewhere=False
            )
        adapter_ids = None if self._adapters is None else self._adapters.ids
        check_encode(request, self._texts, self._limits, adapter_ids)
        self._arrivals += 1
        pieces = TextPieces(request, self._limits.max_model_len)
        text = QueuedText(request, self._arrivals, time.monotonic(), pieces)
        self._queue.add(text)
        self._texts[request.request_id] = text

    def abort(self, request_id: str) -> None:
        """Drop a request; no output of it follows. Unknown ids are harmless."""
        text = self._texts.get(request_id)
        if text is not None:
            self._end(text)

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._texts)

    def step(self) -> list[Output]:
        """Run the next texts of the queue, or pieces of long ones; return an output for each that
        has ended.

        Raises any exception of the runner; the engine is `failed` from then on.
        """
        if self.failed:
            raise EngineFailed("the engine has failed")
        batch = self._schedule()
        if not batch:
            return []
        started = self._clock()
        try:
            results = self.runner.run([piece for _, piece in batch], self._report)
        except BaseException:
            self.failed = True
            raise
        return self._postprocess(batch, results, self._clock() - started)

    def _report(self) -> None:
        if self.on_progress is not None:
            self.on_progress()

    def _schedule(self) -> "_Batch":
        """Take the next texts out of the queue, as many as the step has room for."""
        batch: _Batch = []
        room, now = self._budget.tokens, time.monotonic()
        while self._queue and len(batch) < self._max_texts:
            text = self._queue.first()
            count = text.pieces.next_tokens
            if batch and count > room:
                break
            self._queue.admit(text, count)
            text.scheduled_s = text.scheduled_s or now
            room -= count
            batch.append((text, text.pieces.take()))
            if text.pieces.left:  # its owner has been charged: others may come first
                self._queue.add(text)
        return batch

    def _postprocess(
        self, batch: "_Batch", results: list[EncodeResult], seconds: float
    ) -> list[Output]:
        tokens = sum(len(piece.prompt_token_ids) for _, piece in batch)
        self._budget.observe(tokens, seconds)
        self._steps += 1
        self._tokens += tokens
        self._step_tokens, self._last_batch = tokens, len(batch)
        for text in {id(text): text for text, _ in batch}.values():
            text.seconds += seconds
        outputs = []
        for (text, piece), result in zip(batch, results, strict=True):
            ended = self._result_of(text, piece, result)
            if ended is not None:
                outputs.append(_output(text, ended))
        return outputs

    def _result_of(
        self, text: QueuedText, piece: Encode, result: EncodeResult
    ) -> EncodeResult | None:
        """Return what a text ends with; None if pieces of it are left, or it has ended before."""
        request_id = text.request.request_id
        if request_id not in self._texts:
            return None
        if not isinstance(result, Failure) and not text.pieces.is_whole:
            text.pieces.add(piece, result)
            if not text.pieces.are_found:
                return None
            result = self.runner.join(text.request, mean_of(text.pieces.found))
        self._end(text)
        return result

    def _end(self, text: QueuedText) -> None:
        del self._texts[text.request.request_id]
        self._ended += 1
        if text.pieces.left:
            self._queue.remove(text)

    def load(self) -> WorkerLoad:
        """Return how busy the engine is; running are those that the next step will take."""
        waiting = len(self._queue)
        running = min(waiting, max(1, self._last_batch))
        return WorkerLoad(
            running=running,
            waiting=waiting - running,
            kv_usage=0.0,
            steps=self._steps,
            step_age_s=0.0,
            waiting_adapters=tuple(sorted(self._queue.adapters)),
        )

    def stats(self) -> EngineStats:
        """Return the gauges and counters as of now."""
        load = self.load()
        return EngineStats(
            running=load.running,
            waiting=load.waiting,
            blocks_used=0,
            blocks_total=0,
            steps=self._steps,
            prefix_queried=0,
            cached_tokens=0,
            preemptions=0,
            prompt_tokens=self._tokens,
            generated_tokens=0,
            step_tokens=self._step_tokens,
            ended_by_preemptions=(self._ended,),
        )

    @property
    def cache_size(self) -> CacheSize:
        """The size of the K/V cache: there is none."""
        return CacheSize(0, 0)

    def memory_use(self) -> tuple[int | None, int | None]:
        """Return the bytes of the weights and of the cache; None: unknown."""
        return (0 if self._runner is None else self._runner.weight_bytes), 0

    def reset_prefix_cache(self, recompute_running: bool = False) -> None:
        """Do nothing: there is no cache."""

    # Memory

    def release(self) -> None:
        """Release an accelerator's memory of the weights. There must be no requests."""
        assert not self._texts
        if self._runner is not None:
            self._runner.offload_weights()

    def drop_weights(self) -> None:
        """Release the weights, too, which `restore_runner` brings back; after `release`."""
        self._runner = None

    def restore_runner(self, runner: PoolingRunner) -> None:
        """Continue with a runner that has the weights again."""
        self._runner = runner
        if self._adapters is not None:
            runner.use_adapters(self._adapters)

    def restore_weights(self) -> None:
        """Restore offloaded weights. Raises MemoryError if there is no memory for them."""
        self.runner.restore_weights()

    def restore_cache(self) -> None:
        """Do nothing: there is no cache."""

    # Adapters

    @property
    def adapter_ids(self) -> frozenset[str]:
        """The adapters that requests can name."""
        return frozenset() if self._adapters is None else self._adapters.ids

    def add_adapter(self, adapter_id: str, folder: Path) -> None:
        """Load the adapter in a folder. Raises AdapterError if it does not fit the model."""
        if adapter_id not in self.adapter_ids:
            self.put_adapter(adapter_id, self.read_adapter(folder))

    def read_adapter(self, folder: Path) -> Any:
        """Read an adapter for `put_adapter`; safe in any thread. Raises AdapterError."""
        if self._adapters is None:
            raise AdapterError("this model takes no adapters")
        return self._adapters.read(folder)

    def put_adapter(self, adapter_id: str, adapter: Any) -> None:
        """Let requests name an adapter that `read_adapter` returned."""
        assert self._adapters is not None
        self._adapters.put(adapter_id, adapter)

    def remove_adapter(self, adapter_id: str) -> None:
        """Unload an adapter. Raises AdapterError if a request uses it."""
        if any(text.request.adapter == adapter_id for text in self._texts.values()):
            raise AdapterError("the adapter is in use")
        if self._adapters is not None:
            self._adapters.remove(adapter_id)


_Batch = list[tuple[QueuedText, Encode]]


def _output(text: QueuedText, result: EncodeResult) -> Output:
    """Return the only output of a text."""
    scheduled_s = text.scheduled_s or text.arrived_s
    admission = Admission(
        cached_tokens=0, queue_s=scheduled_s - text.arrived_s, prefill_s=text.seconds
    )
    request_id = text.request.request_id
    if isinstance(result, Failure):
        reason, error = result
        return Output(request_id, (), 0, reason, admission=admission, error=error)
    return Output(request_id, (), 0, "stop", admission=admission, pooled=result)
