"""One model replica: takes requests, steps, gives tokens. Single-threaded.

A step is schedule, run, postprocess. The engine never trusts a request: whatever reaches the
runner has been checked by `add`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.protocol.state import WorkerLoad
from headrace.protocol.to_frontend import Admission, Output
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.block_pool import BlockPool
from headrace.workers.engine.drafter import DraftCounters, Drafter
from headrace.workers.engine.overlap import Overlap
from headrace.workers.engine.runner import Runner
from headrace.workers.engine.scheduler import Scheduler
from headrace.workers.errors import AdapterError, EngineFailed, RequestRefused
from headrace.workers.grammars.gate import GrammarGate
from headrace.workers.grammars.grammar_manager import GrammarManager
from headrace.workers.sequence.check_request import check_request
from headrace.workers.sequence.engine_adapters import EngineAdapters
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Failure, Sequence

if TYPE_CHECKING:  # pydantic is not needed to step
    from headrace.protocol.config import SpeculativeConfig


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
        runner: Runner,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        enable_prefix_caching: bool = True,
        speculative_config: "SpeculativeConfig | None" = None,
        grammars: GrammarManager | None = None,
        adapters: EngineAdapters | None = None,
        max_loras: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """adapters: None: requests with an adapter are refused. max_loras: of one step, at most.
        grammars: None: requests with a grammar are refused.
        clock: seconds, by which steps are measured; what they hold depends on it.
        """
        self._runner = runner
        self.max_len = min(runner.max_model_len, runner.num_blocks * runner.block_size)
        self._drafter = (
            None if speculative_config is None else Drafter(speculative_config, self.max_len)
        )
        self._grammars = grammars
        self._gate = None if grammars is None else GrammarGate(grammars)
        self._adapters = adapters
        if adapters is not None:
            runner.use_adapters(adapters)
        self._pool = BlockPool(runner.num_blocks, runner.block_size)
        self._scheduler = Scheduler(
            self._pool,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_prefix_caching=enable_prefix_caching,
            drafter=self._drafter,
            max_loras=None if adapters is None else max_loras,
        )
        self._overlap: Overlap | None = None
        if runner.overlaps and self._drafter is None:  # drafts need the tokens before them
            self._overlap = Overlap(
                runner, self._scheduler, self._pool, self.max_len, self._start_masks
            )
        self._sequences: dict[str, Sequence] = {}
        self._clock = clock
        self._arrivals = 0
        self._steps = 0
        self._prompt_tokens = 0
        self._generated_tokens = 0
        self._last_step_tokens = 0
        self._recompute_pending = False
        self.failed = False

    def add(self, request: Generate) -> None:
        """Queue a request. RequestRefused if it cannot be run; nothing is kept of it then."""
        if self.failed:
            raise EngineFailed("the engine has failed")
        adapter_ids = None if self._adapters is None else self._adapters.ids
        check_request(request, self._sequences, self._runner.vocab_size, self.max_len, adapter_ids)
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
        return self._runner

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
        self._runner.release_cache()
        self._runner.offload_weights()

    def restore_weights(self) -> None:
        """MemoryError if there is no memory for them."""
        self._runner.restore_weights()

    def restore_cache(self) -> None:
        """Have an empty cache again. MemoryError if there is no memory for it."""
        self._runner.restore_cache()

    def replace_runner(self, runner: Runner) -> None:
        """Go on with another runner of the same model and the same size. Only without work."""
        assert not self.has_work
        self._pool.clear()
        self._runner = runner
        if self._adapters is not None:
            runner.use_adapters(self._adapters)
        if self._overlap is not None:
            self._overlap.replace_runner(runner)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences) or (self._overlap is not None and self._overlap.busy)

    def step(self) -> list[Output]:
        """Run one step and return what it added to each request.

        With a runner that overlaps, a step is started and the one before it is brought to its end.
        An exception of the runner comes through; the engine is `failed` from then on.
        """
        if self.failed:
            raise EngineFailed("the engine has failed")
        if self._recompute_pending and (self._overlap is None or not self._overlap.busy):
            self._scheduler.preempt_all()
            self._recompute_pending = False
        ended = [] if self._gate is None else self._let_in(self._gate)
        if self._overlap is not None:
            started_s = self._clock()
            chunks, results = self._turn(self._overlap)
        else:
            chunks = self._scheduler.schedule()
            started_s = self._clock()
            results = self._run(chunks)
        self._observe(chunks, results, self._clock() - started_s)
        return ended + self._postprocess(chunks, results)

    def load(self) -> WorkerLoad:
        """How busy the engine is; `step_age_s` is for whoever watches from another thread."""
        return WorkerLoad(
            running=self._scheduler.num_running,
            waiting=self._num_waiting,
            kv_usage=self._pool.used_count / self._pool.num_blocks,
            steps=self._steps,
            step_age_s=0.0,
        )

    def stats(self) -> EngineStats:
        counters = self._scheduler.counters
        prompt_lookup = DraftCounters() if self._drafter is None else self._drafter.counters
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._num_waiting,
            blocks_used=self._pool.used_count,
            blocks_total=self._pool.num_blocks,
            steps=self._steps,
            prefix_queried=counters.prefix_queried,
            cached_tokens=counters.cached_tokens,
            preemptions=counters.preemptions,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            step_tokens=self._last_step_tokens,
            drafts=prompt_lookup.drafts,
            draft_tokens=prompt_lookup.draft_tokens,
            accepted_tokens=prompt_lookup.accepted_tokens,
        )

    @property
    def _num_waiting(self) -> int:
        return self._scheduler.num_waiting + (0 if self._gate is None else len(self._gate))

    def _let_in(self, gate: GrammarGate) -> list[Output]:
        """Queue the requests whose grammars are compiled; the outputs of those that end there."""
        outputs = []
        for sequence, failure in gate.take(is_idle=len(gate) == len(self._sequences)):
            request_id, position = sequence.request.request_id, sequence.num_outputs
            self._scheduler.add(sequence)
            grammar = sequence.grammar
            if failure is not None or (grammar is not None and grammar.is_complete):
                reason, error = failure or ("complete", None)
                admission = self._admission(sequence)
                self.abort(request_id)
                outputs.append(
                    Output(request_id, (), position, reason, admission=admission, error=error)
                )
        return outputs

    def _start_masks(self, chunks: list[Chunk]) -> None:
        if self._grammars is not None:
            self._grammars.start_masks(chunks)

    def _run(self, chunks: list[Chunk]) -> list[ChunkResult]:
        if not chunks:
            return []
        try:
            self._start_masks(chunks)
            return self._runner.run(chunks)
        except BaseException:
            self.failed = True
            raise

    def _observe(self, chunks: list[Chunk], results: list[ChunkResult], seconds: float) -> None:
        """Let those who bound the next steps know how long this one took."""
        if chunks:
            self._scheduler.observe(chunks, seconds)
        if self._drafter is not None:
            self._drafter.observe(chunks, results, seconds)

    def _turn(self, overlap: Overlap) -> tuple[list[Chunk], list[ChunkResult]]:
        """Launch the next step; the chunks of the one before it, and their results."""
        try:
            return overlap.turn(self._sequences, may_launch=not self._recompute_pending)
        except BaseException:
            self.failed = True
            raise

    def _postprocess(self, chunks: list[Chunk], results: list[ChunkResult]) -> list[Output]:
        outputs = []
        for chunk, result in zip(chunks, results, strict=True):
            self._count_prompt(chunk)
            chunk.sequence.prompt_logprobs.extend(result.prompt_logprobs)
            if chunk.samples:
                outputs.append(self._advance(chunk, result))
            elif result.error is None:  # else its keys and values are worth nothing to others
                self._scheduler.commit(chunk)
        if chunks:
            self._steps += 1
            self._last_step_tokens = sum(chunk.count for chunk in chunks)
        return outputs

    def _count_prompt(self, chunk: Chunk) -> None:
        self._prompt_tokens += max(min(chunk.end, chunk.sequence.num_prompt) - chunk.start, 0)

    def _advance(self, chunk: Chunk, result: ChunkResult) -> Output:
        """Append what was sampled and say so; end the sequence if its last token is among it."""
        sequence = chunk.sequence
        position = sequence.num_outputs
        admission = self._admission(sequence)
        request_id = sequence.request.request_id
        grammar = sequence.grammar
        if grammar is not None and grammar.error is not None:
            result = ChunkResult(error=Failure("rejected", grammar.error))
        elif grammar is not None and grammar.is_complete:
            self.abort(request_id)
            return Output(request_id, (), position, "complete", admission=admission)
        if result.token_id is None:
            self.abort(request_id)
            why, error = result.error or Failure("error", "no token could be chosen")
            return Output(request_id, (), position, why, admission=admission, error=error)
        results = (result, *result.accepted_drafts)
        taken, reason, stop_token_id = self._append(sequence, results)
        self._scheduler.commit(chunk, accepted=len(taken) - 1)
        if self._drafter is not None and chunk.drafts:
            self._drafter.note(chunk, accepted=len(result.accepted_drafts))
        if reason is not None:
            self.abort(request_id)
        logprobs = tuple(each.logprobs for each in results[: len(taken)] if each.logprobs)
        return Output(
            request_id, taken, position, reason, stop_token_id, logprobs or None, admission
        )

    def _append(
        self, sequence: Sequence, results: tuple[ChunkResult, ...]
    ) -> tuple[tuple[int, ...], str | None, int | None]:
        """Append the results' tokens, up to one that ends the sequence: those appended, why it ends
        if it does, and by which stop token."""
        token_ids = tuple(each.token_id for each in results if each.token_id is not None)
        for count, token_id in enumerate(token_ids, start=1):
            sequence.append(token_id)
            self._generated_tokens += 1
            reason, stop_token_id = self._finish(sequence)
            if reason is not None:
                return token_ids[:count], reason, stop_token_id
        return token_ids, None, None

    def _admission(self, sequence: Sequence) -> Admission | None:
        """What goes with a sequence's first output."""
        if sequence.has_output:
            return None
        sequence.has_output = True
        scheduled_s = sequence.scheduled_s or sequence.arrived_s
        wanted = sequence.request.sampling.prompt_logprobs is not None
        return Admission(
            cached_tokens=sequence.num_cached_tokens or 0,
            queue_s=scheduled_s - sequence.arrived_s,
            prefill_s=time.monotonic() - scheduled_s,
            prompt_logprobs=tuple(sequence.prompt_logprobs) if wanted else None,
        )

    def _finish(self, sequence: Sequence) -> tuple[str | None, int | None]:
        """Why the sequence ends with its last token, if it does, and by which stop token."""
        sampling = sequence.request.sampling
        token_id = sequence.token_ids[-1]
        if sequence.num_outputs >= sampling.min_tokens:
            if token_id in sampling.eos_token_ids:
                return "stop", None
            if token_id in sampling.stop_token_ids:
                return "stop", token_id
        if sequence.grammar is not None and sequence.grammar.is_complete:
            return "complete", None
        if sequence.num_outputs >= sampling.max_tokens or len(sequence.token_ids) >= self.max_len:
            return "length", None
        # Followed from the first token on, so that no step has to catch up with a long text.
        if sequence.repeats() and sequence.num_outputs >= sampling.min_tokens:
            return "repetition", None
        return None, None
