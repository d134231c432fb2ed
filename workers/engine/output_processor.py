"""Turn a step's results into the outputs of its requests."""

import time
from collections.abc import Sequence as Items
from dataclasses import dataclass

from headrace.protocol.to_frontend import Admission, Output
from headrace.workers.engine.drafter import Drafter
from headrace.workers.engine.scheduler import Scheduler
from headrace.workers.engine.step_pipeline import FinishedStep
from headrace.workers.sequence.finish import Finish, FinishReason, check_finish
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Failure, Sequence


@dataclass(slots=True)
class StepCounters:
    """Cumulative counts of steps and tokens, as in `replica_engine.EngineStats`."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    step_tokens: int = 0


class OutputProcessor:
    """Appends sampled tokens to their sequences and makes their outputs.

    max_len: the most tokens of one sequence, prompt and output together.
    """

    def __init__(self, scheduler: Scheduler, drafter: Drafter | None, max_len: int) -> None:
        self.counters = StepCounters()
        self._scheduler = scheduler
        self._drafter = drafter
        self._max_len = max_len

    def process(self, step: FinishedStep) -> list[Output]:
        """Return an output for each chunk that sampled; one with a finish_reason is the last."""
        outputs = []
        for chunk, result in zip(step.chunks, step.results, strict=True):
            sequence = chunk.sequence
            prompt_tokens = min(chunk.end, sequence.num_prompt) - chunk.start
            self.counters.prompt_tokens += max(prompt_tokens, 0)
            sequence.prompt_logprobs.extend(result.prompt_logprobs)
            if result.no_speech_prob is not None:
                sequence.no_speech_prob = result.no_speech_prob
            sequence.token_starts = result.token_starts or sequence.token_starts
            if chunk.samples:
                outputs.append(self._advance(chunk, result))
            elif result.error is None:  # else its keys and values are worth nothing to others
                self._scheduler.commit(chunk)
        if step.chunks:
            self.counters.steps += 1
            self.counters.step_tokens = sum(chunk.count for chunk in step.chunks)
        return outputs

    def end(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> Output:
        """Return the last output of a sequence that ends without another token."""
        return Output(
            sequence.request.request_id,
            (),
            sequence.num_outputs,
            reason,
            admission=self._admission(sequence),
            error=error,
        )

    def _advance(self, chunk: Chunk, result: ChunkResult) -> Output:
        """Append the sampled tokens of one chunk and return their output."""
        sequence, grammar = chunk.sequence, chunk.sequence.grammar
        if grammar is not None and grammar.error is not None:
            return self.end(sequence, "rejected", grammar.error)
        if grammar is not None and grammar.is_complete:
            return self.end(sequence, "complete")
        if result.token_id is None:
            failure = result.error or Failure("error", "no token could be chosen")
            return self.end(sequence, *failure)
        position = sequence.num_outputs
        results = (result, *result.accepted_drafts)
        token_ids, finish = self._append(sequence, results)
        self._scheduler.commit(chunk, accepted=len(token_ids) - 1)
        if self._drafter is not None and chunk.drafts:
            self._drafter.record(chunk, accepted=len(result.accepted_drafts))
        logprobs = tuple(kept.logprobs for kept in results[: len(token_ids)] if kept.logprobs)
        return Output(
            sequence.request.request_id,
            token_ids,
            position,
            None if finish is None else finish.reason,
            None if finish is None else finish.stop_token_id,
            logprobs or None,
            self._admission(sequence),
        )

    def _append(
        self, sequence: Sequence, results: Items[ChunkResult]
    ) -> tuple[tuple[int, ...], Finish | None]:
        """Append the results' tokens, up to the first that ends the sequence.

        Returns the tokens appended, and why the sequence ends, or None if it continues.
        """
        token_ids = tuple(kept.token_id for kept in results if kept.token_id is not None)
        for count, token_id in enumerate(token_ids, start=1):
            sequence.append(token_id)
            self.counters.generated_tokens += 1
            finish = check_finish(sequence, self._max_len)
            if finish is not None:
                return token_ids[:count], finish
        return token_ids, None

    def _admission(self, sequence: Sequence) -> Admission | None:
        """Return the record that a sequence's first output carries; None for later ones."""
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
            written_tokens=self._scheduler.written_tokens(sequence),
            no_speech_prob=sequence.no_speech_prob,
            token_starts=sequence.token_starts,
        )
