"""One model replica: takes requests, steps, gives tokens. Single-threaded.

A step is schedule, run, postprocess. The engine never trusts a request: whatever reaches the
runner has been checked by `add`.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.drafter import DraftCounters, Drafter
from headrace.workers.engine.output_processor import OutputProcessor
from headrace.workers.engine.runner import Runner
from headrace.workers.engine.scheduler import Scheduler
from headrace.workers.engine.step_pipeline import FinishedStep, StepPipeline
from headrace.workers.errors import AdapterError, EngineFailed, RequestRefused
from headrace.workers.grammars.gate import GrammarGate
from headrace.workers.sequence.check_request import check_request
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, Sequence


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges and cumulative counters of one engine.

    running, waiting: requests in the batch and in the queue.
    blocks_used, blocks_total: of the K/V cache; used are those that a running request holds.
    steps: since the start.
    prefix_queried, cached_tokens: prompt tokens looked up and found in the cache.
    prompt_tokens: prompt tokens run, recomputed ones included.
    generated_tokens: tokens sampled.
    step_tokens: tokens run in the last step.
    drafts, draft_tokens, accepted_tokens: guesses at what follows in a text, the tokens in them,
        and how many of these proved right.
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


class Engine:
    """Runs requests on a runner, many at a time."""

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
    ) -> None:
        """Take parts that share one pool of blocks; `assemble.assemble_engine` makes them.

        max_len: the most tokens of one request, prompt and output together.
        drafter: the scheduler's own, which is told how long steps took.
        grammar_gate: None: requests with a grammar are refused.
        adapters: None: requests with an adapter are refused.
        """
        self.max_len = max_len
        self.failed = False
        self._scheduler = scheduler
        self._pool = scheduler.pool
        self._pipeline = pipeline
        self._output_processor = output_processor
        self._drafter = drafter
        self._gate = grammar_gate
        self._adapters = adapters
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = 0
        self._recompute_pending = False

    def add(self, request: Generate) -> None:
        """Queue a request. RequestRefused if it cannot be run; nothing is kept of it then."""
        if self.failed:
            raise EngineFailed("the engine has failed")
        adapter_ids = None if self._adapters is None else self._adapters.ids
        check_request(request, self._sequences, self.runner.vocab_size, self.max_len, adapter_ids)
        self._arrivals += 1
        sequence = Sequence.of(request, self._arrivals, time.monotonic())
        if request.grammar is None:
            self._scheduler.add(sequence)
        elif self._gate is None:
            raise RequestRefused("grammar: this model cannot follow one", retry_elsewhere=False)
        else:
            self._gate.put(sequence)
        self._sequences[request.request_id] = sequence

    def abort(self, request_id: str) -> None:
        """Forget a request; no output of it follows. Unknown ids are harmless."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None or (self._gate is not None and self._gate.discard(sequence)):
            return
        self._scheduler.remove(sequence)

    @property
    def adapter_ids(self) -> frozenset[str]:
        """The adapters that requests can name."""
        return frozenset() if self._adapters is None else self._adapters.ids

    def add_adapter(self, adapter_id: str, folder: Path) -> None:
        """Let requests name the adapter in a folder that PEFT wrote, also while the engine sleeps.

        AdapterError if there is none that fits the model. Harmless if the id is there: it stands
        for one adapter for ever, by which prefixes in the cache are told apart.
        """
        if adapter_id not in self.adapter_ids:
            self.put_adapter(adapter_id, self.read_adapter(folder))

    def read_adapter(self, folder: Path) -> Any:
        """The first half of that, which takes long: it may be done in any thread, while the engine
        steps."""
        if self._adapters is None:
            raise AdapterError("this model takes no adapters")
        return self._adapters.read(folder)

    def put_adapter(self, adapter_id: str, adapter: Any) -> None:
        """The second half."""
        assert self._adapters is not None
        self._adapters.put(adapter_id, adapter)

    def remove_adapter(self, adapter_id: str) -> None:
        """Forget an adapter, also while the engine sleeps. AdapterError if a request has it.
        Harmless if it is not there."""
        if any(each.request.adapter == adapter_id for each in self._sequences.values()):
            raise AdapterError("the adapter is in use")
        if self._adapters is not None:
            self._adapters.remove(adapter_id)

    @property
    def runner(self) -> Runner:
        return self._pipeline.runner

    def reset_prefix_cache(self, recompute_running: bool = False) -> None:
        """Find nothing of what has been run until now. Running requests go on with what is theirs,
        or with recompute_running are run again from their first token, from the next step on."""
        self._scheduler.reset_prefix_cache()
        self._recompute_pending |= recompute_running

    def release(self) -> None:
        """Give the cache's memory back, and what an accelerator holds of the weights. Only without
        requests, and none is to be added until all is restored."""
        assert not self._sequences
        while self.has_work:  # a step in flight, whose results are nobody's any more
            self.step()
        self._pool.clear()
        self.runner.release_cache()
        self.runner.offload_weights()

    def restore_weights(self) -> None:
        """MemoryError if there is no memory for them."""
        self.runner.restore_weights()

    def restore_cache(self) -> None:
        """Have an empty cache again. MemoryError if there is no memory for it."""
        self.runner.restore_cache()

    def replace_runner(self, runner: Runner) -> None:
        """Go on with another runner of the same model and the same size. Only without work."""
        assert not self.has_work
        self._pool.clear()
        if self._adapters is not None:
            runner.use_adapters(self._adapters)
        self._pipeline.replace_runner(runner)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences) or self._pipeline.is_busy

    def step(self) -> list[Output]:
        """Schedule, run and postprocess one step; return what it added to each request.

        With a runner that overlaps, a step is launched and the one before it is postprocessed.
        Raises whatever the runner raises; the engine is `failed` from then on.
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
        """Return the next step's chunks; none while results are awaited that it depends on."""
        if self._recompute_pending:
            if self._pipeline.assumes_results:
                return []
            self._scheduler.preempt_all()
            self._recompute_pending = False
        if self._pipeline.assumes_results and not self._scheduler.can_extend_running():
            return []
        return self._scheduler.schedule()

    def _launch(self, chunks: list[Chunk]) -> None:
        if not chunks:
            return
        if self._gate is not None:
            self._gate.grammars.start_masks(chunks)
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

    def load(self) -> WorkerLoad:
        """How busy the engine is; `step_age_s` is for whoever watches from another thread."""
        return WorkerLoad(
            running=self._scheduler.num_running,
            waiting=self._num_waiting,
            kv_usage=self._pool.used_count / self._pool.num_blocks,
            steps=self._output_processor.counters.steps,
            step_age_s=0.0,
        )

    def stats(self) -> EngineStats:
        counters = self._scheduler.counters
        done = self._output_processor.counters
        prompt_lookup = DraftCounters() if self._drafter is None else self._drafter.counters
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._num_waiting,
            blocks_used=self._pool.used_count,
            blocks_total=self._pool.num_blocks,
            steps=done.steps,
            prefix_queried=counters.prefix_queried,
            cached_tokens=counters.cached_tokens,
            preemptions=counters.preemptions,
            prompt_tokens=done.prompt_tokens,
            generated_tokens=done.generated_tokens,
            step_tokens=done.step_tokens,
            drafts=prompt_lookup.drafts,
            draft_tokens=prompt_lookup.draft_tokens,
            accepted_tokens=prompt_lookup.accepted_tokens,
        )

    @property
    def _num_waiting(self) -> int:
        return self._scheduler.num_waiting + (0 if self._gate is None else len(self._gate))

    def _queue_compiled(self) -> list[Output]:
        """Queue the requests whose grammars are compiled; return the outputs of those that end."""
        if self._gate is None:
            return []
        outputs = []
        for sequence, failure in self._gate.take(is_idle=len(self._gate) == len(self._sequences)):
            self._scheduler.add(sequence)
            grammar = sequence.grammar
            if failure is not None or (grammar is not None and grammar.is_complete):
                reason, error = failure or ("complete", None)
                outputs.append(self._output_processor.end(sequence, reason, error))
                self.abort(sequence.request.request_id)
        return outputs
