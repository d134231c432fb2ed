"""Which tokens of which requests the next step runs. Touches no tensors."""

import sys
import time
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, replace

from headrace.workers.engine.block_pool import BlockPool
from headrace.workers.engine.drafter import Drafter
from headrace.workers.engine.fairness import pick_victim, tenants_to_defer
from headrace.workers.engine.step_budget import StepBudget
from headrace.workers.engine.waiting_queue import WaitingQueue
from headrace.workers.sequence.sequence import Chunk, Sequence

MAX_PROMPT_LOGPROBS = 256  # prompt tokens of one step: each takes a row of the whole vocabulary


@dataclass(slots=True)
class SchedulerCounters:
    """Cumulative. prefix_queried, cached_tokens: prompt tokens looked up and found in the cache."""

    prefix_queried: int = 0
    cached_tokens: int = 0
    preemptions: int = 0


class Scheduler:
    """Continuous batching with chunked prefill over one pool of blocks.

    Each step has room for `max_num_batched_tokens`. Running sequences come first, those that need
    one token (decodes) before prompts, so that a long prompt fills what decodes leave and never
    delays them by more than the step budget grants; then waiting ones are admitted (in what order:
    `waiting.py`). When blocks run out, the running sequence of the lowest priority and latest
    arrival gives its blocks back and waits to be run again (preemption by recompute).
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        enable_prefix_caching: bool,
        drafter: Drafter | None = None,
        max_loras: int | None = None,
    ) -> None:
        """max_loras: different adapters of the running sequences, at most; None: any number."""
        self.pool = pool
        self.counters = SchedulerCounters()
        self._max_running = min(max_num_seqs, max_num_batched_tokens)  # each gets a token a step
        self._max_tokens = max_num_batched_tokens
        self._budget = StepBudget(max_num_batched_tokens)
        self._drafter = drafter
        self._max_loras = max_loras
        self._caching = enable_prefix_caching
        self._running: list[Sequence] = []
        self._waiting = WaitingQueue()
        self._gave_way = False

    @property
    def running(self) -> Iterable[Sequence]:
        return self._running

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, running or waiting, and free its blocks."""
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._free(sequence)

    def reset_prefix_cache(self) -> None:
        """Find nothing of what has been run until now. Running sequences keep what is theirs, and
        nothing of it is found by others."""
        self.pool.clear()
        for sequence in self._running:
            sequence.num_registered = sys.maxsize

    def preempt_all(self) -> None:
        """Have all that runs wait, to be run again from the first token. Not while a step runs."""
        for sequence in list(self._running):
            self._preempt(sequence)

    def can_extend_running(self) -> bool:
        """Whether all that runs can be run on without preempting any of it."""
        free = self.pool.free_count
        if len(self._running) <= free:  # one token each is one block at most
            return True
        missing = sum(
            max(0, self.pool.blocks_for(len(sequence.token_ids)) - len(sequence.blocks))
            for sequence in self._running
        )
        return missing <= free

    def schedule(self) -> list[Chunk]:
        """The next step's chunks, decodes first.

        Empty only if there are no sequences, or none that has a token left to run.
        """
        self._make_place()
        giving_way = self._who_gives_way()
        # Never their decodes in two steps in a row: their texts go on, if more slowly.
        wait = frozenset[str]() if self._gave_way else giving_way
        plan = self._plan(giving_way, wait)
        if giving_way and not plan.has_prompts:  # no room for those to whom they gave way
            wait = frozenset()
            plan = self._plan(wait, wait)
        self._gave_way = bool(wait)
        return list(plan.chunks.values())

    def commit(self, chunk: Chunk, accepted: int = 0) -> None:
        """Note that a chunk has been run: its full blocks can be found by others from now on.

        accepted: how many of its drafts are now tokens of the sequence. What lies in the cache of
        the others is written over by the tokens that come in their places.
        """
        sequence = chunk.sequence
        if chunk.samples:
            self._waiting.charge_outputs(sequence, 1 + accepted)
        sequence.num_computed = chunk.end + accepted
        if not self._caching:
            return
        full = sequence.num_computed // self.pool.block_size
        if full > sequence.num_registered:
            names = sequence.block_hashes(full, self.pool.block_size)
            for index in range(sequence.num_registered, full):
                self.pool.register(sequence.blocks[index], names[index])
            sequence.num_registered = full

    def observe(self, chunks: list[Chunk], seconds: float) -> None:
        """Note how long a step took."""
        decode_rows = sum(chunk.count for chunk in chunks if chunk.is_decode)
        prompt_tokens = sum(chunk.count for chunk in chunks) - decode_rows
        self._budget.observe(decode_rows, prompt_tokens, seconds)

    def _plan(self, no_prompts: frozenset[str], no_decodes: frozenset[str]) -> "_Plan":
        """A step without prompts of some tenants, and without decodes of some."""
        plan = _Plan(self._max_tokens, no_prompts)
        preemptions = self.counters.preemptions
        self._schedule_running(plan, no_decodes)
        if self.counters.preemptions == preemptions:
            self._admit(plan)
        return plan

    def _schedule_running(self, plan: "_Plan", no_decodes: frozenset[str]) -> None:
        going = [each for each in self._running if each.num_pending == 1]
        decodes = [each for each in going if each.request.tenant not in no_decodes]
        prefills = [each for each in self._running if each.num_pending > 1 and plan.may_run(each)]
        prefills.sort(key=lambda sequence: not sequence.deferred_tenants)
        self._put_running(decodes, plan)
        prompts_wait = bool(prefills or self._waiting)
        if (
            self._drafter is not None
            and plan.chunks
            and self._drafter.should_draft(len(plan.chunks))
        ):
            self._put_drafts(self._drafter, plan, plan.room // 2 if prompts_wait else plan.room)
        if prompts_wait:
            rows = self._max_tokens - plan.room
            left_out = len(going) - len(decodes)
            plan.room = min(plan.room, self._budget.prefill_budget(rows, left_out))
        self._put_running(prefills, plan)

    def _make_place(self) -> None:
        """Let whoever waits for a place of a full batch have one, if another should give way."""
        newcomer = self._next()
        if len(self._running) < self._max_running or newcomer is None:
            return
        victim = pick_victim(newcomer, self._running, self._waiting.counters)
        if victim is not None:
            self._preempt(victim)

    def _who_gives_way(self) -> frozenset[str]:
        """Tenants that leave the next step to prompts that go first."""
        giving_way = frozenset[str]()
        for sequence in self._running:
            if sequence.num_pending > 1:
                giving_way |= sequence.deferred_tenants
        newcomer = self._next()
        if newcomer is not None and len(self._running) < self._max_running:
            giving_way |= self._goes_before(newcomer)
        return giving_way

    def _next(self) -> Sequence | None:
        """Who of those that wait is the next to run, if any can.

        An adapter may be one too many for the batch. Then only requests without one pass its
        request: those of other adapters, also of adapters that are in the batch, queue behind it,
        so that some adapter's texts come to an end.
        """
        if not self._waiting:
            return None
        first = self._waiting.first()
        if self._may_join(first):
            return first
        try:
            return self._waiting.first(without_adapter=True)
        except IndexError:
            return None

    def _may_join(self, sequence: Sequence) -> bool:
        """Whether the batch would have no more adapters with it than it may."""
        if self._max_loras is None or not sequence.request.adapter:
            return True
        running = {each.request.adapter for each in self._running} - {""}
        return len(running | {sequence.request.adapter}) <= self._max_loras

    def _goes_before(self, newcomer: Sequence) -> frozenset[str]:
        return tenants_to_defer(newcomer, self._running, self._waiting.counters)

    def _put_drafts(self, drafter: Drafter, plan: "_Plan", room: int) -> None:
        """Add drafts to the decodes, where step and blocks have room for them."""
        for sequence in list(plan.chunks):
            drafts = drafter.propose(sequence, room)
            drafts = drafts[: self._look_ahead(sequence, len(drafts))]
            if drafts:
                plan.put_drafts(sequence, drafts)
                room -= len(drafts)

    def _look_ahead(self, sequence: Sequence, wanted: int) -> int:
        """For how many tokens beyond its own the sequence has blocks, at most `wanted`.

        Blocks are taken for them only while others need not be preempted for it soon.
        """
        length = len(sequence.token_ids)
        missing = self.pool.blocks_for(length + wanted) - len(sequence.blocks)
        spare = max(self.pool.free_count - len(self._running), 0)
        if missing > 0:
            sequence.blocks += self.pool.allocate(min(missing, spare))
        return min(wanted, len(sequence.blocks) * self.pool.block_size - length)

    def _put_running(self, sequences: list[Sequence], plan: "_Plan") -> None:
        for sequence in sequences:
            if plan.room == 0:
                break
            if not sequence.blocks:  # preempted a moment ago for one before it
                continue
            count = plan.count_for(sequence)
            if count and self._extend(sequence, sequence.num_computed + count, plan):
                plan.put(sequence, count)

    def _admit(self, plan: "_Plan") -> None:
        while plan.room > 0 and len(self._running) < self._max_running:
            sequence = self._next()
            if sequence is None or not plan.may_run(sequence) or not self._take_blocks(sequence):
                return
            out_of_turn = sequence is not self._waiting.first()
            sequence.deferred_tenants = self._goes_before(sequence)
            again = sequence.scheduled_s is not None  # its tenant has paid for the first time
            prompt_tokens = 0 if again else sequence.num_pending
            self._waiting.admit(sequence, prompt_tokens, out_of_turn)
            insort(self._running, sequence, key=lambda other: other.order)
            if not again:
                sequence.scheduled_s = time.monotonic()
            plan.put(sequence, plan.count_for(sequence))

    def _take_blocks(self, sequence: Sequence) -> bool:
        """Hold blocks for all of a waiting sequence's tokens, as many as possible from the cache.

        All at once, so that two prompts that fit only one after the other do not start together.
        A block for each running sequence is left free: else the first of them to grow would
        preempt the newcomer, whose prompt would have been run for nothing.
        """
        cached = self._find_prefix(sequence)
        missing = self.pool.blocks_for(len(sequence.token_ids)) - len(cached)
        free = self.pool.free_count - self.pool.free_among(cached)
        if missing + len(self._running) > free:
            return False
        self.pool.hold(cached)
        sequence.blocks = cached + self.pool.allocate(missing)
        sequence.num_registered = len(cached)
        sequence.num_computed = len(cached) * self.pool.block_size
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = min(sequence.num_computed, sequence.num_prompt)
            self.counters.prefix_queried += sequence.num_prompt
            self.counters.cached_tokens += sequence.num_cached_tokens
        return True

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        """Cached blocks of a sequence's beginning, at least its last token left out."""
        if not self._caching or sequence.lacks_prompt_logprobs:
            return []
        full = (len(sequence.token_ids) - 1) // self.pool.block_size
        return self.pool.find(sequence.block_hashes(full, self.pool.block_size))

    def _extend(self, sequence: Sequence, num_tokens: int, plan: "_Plan") -> bool:
        """Hold blocks for so many tokens, preempting others; False if it preempted itself."""
        missing = self.pool.blocks_for(num_tokens) - len(sequence.blocks)
        while missing > self.pool.free_count:
            victim = self._running[-1]
            self._preempt(victim)
            plan.drop(victim)
            if victim is sequence:
                return False
        if missing > 0:
            sequence.blocks += self.pool.allocate(missing)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._free(sequence)
        self.add(sequence)
        self.counters.preemptions += 1

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = 0
        sequence.num_registered = 0


class _Plan:
    """A step in the making: its chunks, and for how many more tokens there is room.

    no_prompts: tenants whose prompts have to wait.
    """

    def __init__(self, room: int, no_prompts: frozenset[str]) -> None:
        self.room = room
        self._no_prompts = no_prompts
        self.chunks: dict[Sequence, Chunk] = {}
        self._prompt_logprob_room = MAX_PROMPT_LOGPROBS

    @property
    def has_prompts(self) -> bool:
        return not all(chunk.is_decode for chunk in self.chunks.values())

    def may_run(self, sequence: Sequence) -> bool:
        """Whether a prompt may be in it."""
        if sequence.request.tenant in self._no_prompts:
            return False
        return not sequence.lacks_prompt_logprobs or self._prompt_logprob_room > 0

    def count_for(self, sequence: Sequence) -> int:
        """How many of the sequence's next tokens can be run."""
        count = min(sequence.num_pending, self.room)
        if sequence.lacks_prompt_logprobs:
            return min(count, self._prompt_logprob_room)
        return count

    def put(self, sequence: Sequence, count: int) -> None:
        self.chunks[sequence] = _chunk(sequence, count)
        self.room -= count
        if sequence.lacks_prompt_logprobs:
            self._prompt_logprob_room -= count

    def put_drafts(self, sequence: Sequence, drafts: tuple[int, ...]) -> None:
        """Let the chunk of a decode go on with drafts."""
        chunk = self.chunks[sequence]
        count = chunk.count + len(drafts)
        self.chunks[sequence] = replace(chunk, count=count, drafts=drafts)
        self.room -= len(drafts)

    def drop(self, sequence: Sequence) -> None:
        """Take a sequence out again, if it was in."""
        chunk = self.chunks.pop(sequence, None)
        if chunk is not None:
            self.room += chunk.count


def _chunk(sequence: Sequence, count: int) -> Chunk:
    start, end = sequence.num_computed, sequence.num_computed + count
    positions = range(0)
    if sequence.lacks_prompt_logprobs:
        known = len(sequence.prompt_logprobs)
        positions = range(max(start, known), min(end, sequence.num_prompt - 1))
    return Chunk(sequence, start, count, end == len(sequence.token_ids), positions)
