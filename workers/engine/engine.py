"""Run one model replica: take requests, step, return tokens. Single-threaded.

A step is schedule, run, postprocess. The engine never trusts a request: all that reaches the runner
has been checked by `add`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.protocol.pooling import TRANSCRIPTION, Task
from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import EngineRequest, Generate
from headrace.workers.engine.drafter import DraftCounters, Drafter
from headrace.workers.engine.dropped_runner import DroppedRunner
from headrace.workers.engine.output_processor import OutputProcessor
from headrace.workers.engine.replica_engine import CacheSize, EngineStats
from headrace.workers.engine.runner import Runner
from headrace.workers.engine.scheduler import Scheduler
from headrace.workers.engine.step_pipeline import FinishedStep, StepPipeline
from headrace.workers.errors import AdapterError, EngineFailed, RejectedByEngine
from headrace.workers.grammars.gate import GrammarGate
from headrace.workers.sequence.check_request import check_request
from headrace.workers.sequence.check_window import WindowChecks, check_window
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, Sequence
from headrace.workers.sequence.token_texts import TokenTexts

MAX_PREEMPTIONS_COUNTED = 20


class Engine:
    """Runs requests on a runner, many at a time: a ReplicaEngine whose model generates text."""

    on_progress: Callable[[], None] | None = None

    def __init__(
        self,
        scheduler: Scheduler,
        pipeline: StepPipeline,
        output_processor: OutputProcessor,
        *,
        max_len: int,
        drafter: Drafter | None = None,
        grammar_gate: GrammarGate | None = None,
        adapters: EngineAdapters | None = None,
        texts: TokenTexts | None = None,
        windows: WindowChecks | None = None,
    ) -> None:
        """Join parts that share one pool of blocks; `assemble.assemble_engine` makes them.

        max_len: the most tokens of one request, prompt and output together.
        drafter: the scheduler's own, which must know how long steps took.
        grammar_gate: None: requests with a grammar are rejected.
        adapters: None: requests with an adapter are rejected.
        texts: of the tokens, where no gate reads them; None: thinking budgets are rejected, too.
        windows: of a model that transcribes; None: it only reads.
        """
        self.tasks: tuple[Task, ...] = ("generate",) if windows is None else (TRANSCRIPTION,)
        self._windows = windows
        self.max_len = max_len
        self.failed = False
        self._scheduler = scheduler
        self._pool = scheduler.pool
        self._pipeline = pipeline
        self._output_processor = output_processor
        self._drafter = drafter
        self._gate = grammar_gate
        self._texts = texts
        self._adapters = adapters
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = 0
        self._ended_by_preemptions = [0] * (MAX_PREEMPTIONS_COUNTED + 1)
        self._recompute_pending = False

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises RejectedByEngine, keeping nothing of it, if it cannot be run."""
        if self.failed:
            raise EngineFailed("the engine has failed")
        if not isinstance(request, Generate):
            does = "generates text" if self._windows is None else "transcribes"
            raise RejectedByEngine(f"task: this model only {does}", retry_elsewhere=False)
        check_window(request, self._windows)
        adapter_ids = None if self._adapters is None else self._adapters.ids
        check_request(request, self._sequences, self.runner.vocab_size, self.max_len, adapter_ids)
        self._arrivals += 1
        sequence = Sequence.of(request, self._arrivals, time.monotonic())
        sequence.texts = self._texts if self._gate is None else self._gate.grammars.texts
        lacks_texts = request.sampling.thinking_budget is not None and sequence.texts is None
        if request.grammar is None and not lacks_texts:
            self._scheduler.add(sequence)
        elif self._gate is None:
            field = "thinking_budget" if request.grammar is None else "grammar"
            raise RejectedByEngine(
                f"{field}: this model does not support it", retry_elsewhere=False
            )
        else:
            self._gate.add(sequence)
        self._sequences[request.request_id] = sequence

    def abort(self, request_id: str) -> None:
        """Drop a request; no output of it follows. Unknown ids are harmless."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._ended_by_preemptions[min(sequence.preemptions, MAX_PREEMPTIONS_COUNTED)] += 1
        if sequence is None or (self._gate is not None and self._gate.discard(sequence)):
            return
        self._scheduler.remove(sequence)

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._sequences) or self._pipeline.is_busy

    def step(self) -> list[Output]:
        """Schedule, run and postprocess one step; return its outputs, by request.

        With a runner that overlaps, a step is launched and the one before it is postprocessed.
        Raises any exception of the runner; the engine is `failed` from then on.
        """
        if self.failed:
            raise EngineFailed("the engine has failed")
        ended = self._queue_compiled()
        try:
            with self._pipeline.assume_results(self._sequences):
                chunks = self._schedule()
                self._launch(chunks)
            step = self._pipeline.collect(self._sequences)
        except BaseException:
            self.failed = True
            raise
        return ended + self._postprocess(step)

    def _schedule(self) -> list[Chunk]:
        """Return the next step's chunks; none if it must wait for the results of the last one."""
        if self._recompute_pending:
            if self._pipeline.assumes_results:
                return []
            self._scheduler.preempt_all()
            self._recompute_pending = False
        assumes_results = self._pipeline.assumes_results
        if assumes_results and not self._scheduler.can_run_on():
            return []
        return self._scheduler.schedule(may_preempt=not assumes_results)

    def _launch(self, chunks: list[Chunk]) -> None:
        if not chunks:
            return
        if self._gate is not None:
            self._gate.grammars.start_masks(chunks)
        self.runner.on_progress = self.on_progress
        self._pipeline.launch(chunks)

    def _postprocess(self, step: FinishedStep) -> list[Output]:
        if step.chunks:
            self._scheduler.observe(step.chunks, step.seconds)
            if self._drafter is not None:
                self._drafter.observe(step.chunks, step.results, step.seconds)
        outputs = self._output_processor.process(step)
        for output in outputs:
            if output.finish_reason is not None:
                self.abort(output.request_id)
        return outputs

    def _queue_compiled(self) -> list[Output]:
        """Queue the requests whose grammars are compiled; return the outputs of those that end."""
        if self._gate is None:
            return []
        outputs = []
        is_idle = len(self._gate) == len(self._sequences)
        for sequence, failure in self._gate.pop_compiled(is_idle):
            self._scheduler.add(sequence)
            grammar = sequence.grammar
            if failure is not None or (grammar is not None and grammar.is_complete):
                reason, error = failure or ("complete", None)
                outputs.append(self._output_processor.end(sequence, reason, error))
                self.abort(sequence.request.request_id)
        return outputs

    @property
    def adapter_ids(self) -> frozenset[str]:
        """The adapters that requests can name."""
        return frozenset() if self._adapters is None else self._adapters.ids

    def add_adapter(self, adapter_id: str, folder: Path) -> None:
        """Load the adapter in a folder that PEFT wrote; allowed while the engine sleeps.

        Raises AdapterError if the folder holds no adapter that fits the model. Harmless if the id
        is loaded: an id always stands for the same adapter, and is part of the hashes of
        cached prefixes.
        """
        if adapter_id not in self.adapter_ids:
            self.put_adapter(adapter_id, self.read_adapter(folder))

    def read_adapter(self, folder: Path) -> Any:
        """Read an adapter for `put_adapter`. Slow; safe in any thread while the engine steps.

        Raises AdapterError as `add_adapter` does.
        """
        if self._adapters is None:
            raise AdapterError("this model takes no adapters")
        return self._adapters.read(folder)

    def put_adapter(self, adapter_id: str, adapter: Any) -> None:
        """Let requests name an adapter that `read_adapter` returned."""
        assert self._adapters is not None
        self._adapters.put(adapter_id, adapter)

    def remove_adapter(self, adapter_id: str) -> None:
        """Unload an adapter; allowed while the engine sleeps. Unknown ids are harmless.

        Raises AdapterError if a request uses it.
        """
        if any(sequence.request.adapter == adapter_id for sequence in self._sequences.values()):
            raise AdapterError("the adapter is in use")
        if self._adapters is not None:
            self._adapters.remove(adapter_id)

    @property
    def runner(self) -> Runner:
        """The runner of the next step."""
        return self._pipeline.runner

    def reset_prefix_cache(self, recompute_running: bool = False) -> None:
        """Forget all cached prefixes.

        Running requests keep their own blocks; with recompute_running they are preempted before the
        next step and recomputed from their first token.
        """
        self._scheduler.reset_prefix_cache()
        self._recompute_pending |= recompute_running

    def release(self) -> None:
        """Release the cache's memory, and an accelerator's memory of the weights.

        There must be no requests, and none may be added until all is restored.
        """
        assert not self._sequences
        while self.has_work:  # a step in flight, whose requests were all aborted
            self.step()
        self._scheduler.clear_caches()
        self.runner.release_cache()
        self.runner.offload_weights()

    def restore_weights(self) -> None:
        """Restore offloaded weights. Raises MemoryError if there is no memory for them."""
        self.runner.restore_weights()

    def restore_cache(self) -> None:
        """Allocate an empty cache again. Raises MemoryError if there is no memory for it."""
        self.runner.restore_cache()

    def drop_weights(self) -> None:
        """Release the weights, too, which `restore_runner` brings back; after `release`."""
        self.replace_runner(DroppedRunner(self.runner))

    def restore_runner(self, runner: Runner) -> None:
        """Continue with a runner that has the weights again, and no cache yet."""
        runner.release_cache()
        # It was sized by the memory that is free now; the scheduler expects the size before.
        runner.num_blocks = self.runner.num_blocks
        runner.num_state_slots = self.runner.num_state_slots
        self.replace_runner(runner)

    def memory_use(self) -> tuple[int | None, int | None]:
        """Return the bytes of the weights and of the cache; None: unknown."""
        return self.runner.weight_bytes, self.runner.cache_bytes

    def replace_runner(self, runner: Runner) -> None:
        """Continue with another runner of the same model and size. There must be no work."""
        assert not self.has_work
        self._scheduler.clear_caches()
        if self._adapters is not None:
            runner.use_adapters(self._adapters)
        self._scheduler.give_slots_to(runner)
        self._pipeline.replace_runner(runner)

    def load(self) -> WorkerLoad:
        """Return how busy the engine is. `step_age_s` is filled in by the thread that watches."""
        running, waiting = ((), ()) if self._adapters is None else self._scheduler.adapters_in_use()
        return WorkerLoad(
            running=self._scheduler.num_running,
            waiting=self._num_waiting,
            kv_usage=self._pool.used_count / self._pool.num_blocks,
            steps=self._output_processor.counters.steps,
            step_age_s=0.0,
            deferred=self._num_deferred,
            running_adapters=running,
            waiting_adapters=waiting,
        )

    @property
    def cache_size(self) -> CacheSize:
        """The size of the K/V cache."""
        return CacheSize(self._pool.num_blocks, self._pool.block_size, self.runner.cache_dtype)

    def stats(self) -> EngineStats:
        """Return the gauges and counters as of now."""
        scheduled = self._scheduler.counters
        processed = self._output_processor.counters
        drafted = DraftCounters() if self._drafter is None else self._drafter.counters
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._num_waiting,
            blocks_used=self._pool.used_count,
            blocks_total=self._pool.num_blocks,
            steps=processed.steps,
            prefix_queried=scheduled.prefix_queried,
            cached_tokens=scheduled.cached_tokens,
            preemptions=scheduled.preemptions,
            prompt_tokens=processed.prompt_tokens,
            generated_tokens=processed.generated_tokens,
            step_tokens=processed.step_tokens,
            drafts=drafted.drafts,
            draft_tokens=drafted.draft_tokens,
            accepted_tokens=drafted.accepted_tokens,
            accepted_by_position=tuple(drafted.accepted_by_position),
            ended_by_preemptions=tuple(self._ended_by_preemptions),
        )

    @property
    def _num_waiting(self) -> int:
        return self._scheduler.num_waiting + self._num_compiling

    @property
    def _num_deferred(self) -> int:
        return self._scheduler.num_deferred + self._num_compiling

    @property
    def _num_compiling(self) -> int:
        """How many requests wait for their grammar."""
        return 0 if self._gate is None else len(self._gate)
