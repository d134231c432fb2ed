"""Decide which tokens of which requests the next step runs. Touches no tensors."""

import sys
import time
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from headrace.workers.engine.block_pool import BlockPool
from headrace.workers.engine.drafter import Drafter
from headrace.workers.engine.fairness import owners_to_defer, pick_victim
from headrace.workers.engine.state_cache import StateCache
from headrace.workers.engine.step_budget import StepBudget
from headrace.workers.engine.step_plan import StepPlan
from headrace.workers.engine.waiting_queue import WaitingQueue
from headrace.workers.engine.window_slots import WindowSlots
from headrace.workers.sequence.sequence import Chunk, Owner, Sequence

MAX_PROMPT_LOGPROBS = 256  # prompt tokens of one step: each takes a row of the whole vocabulary


@dataclass(slots=True)
class SchedulerCounters:
    """Cumulative counts.

    prefix_queried, cached_tokens: prompt tokens looked up and found in the prefix cache.
    """

    prefix_queried: int = 0
    cached_tokens: int = 0
    preemptions: int = 0


class Scheduler:
    """Continuous batching with chunked prefill over one pool of blocks.

    Each step has room for `max_num_batched_tokens`. Running sequences come first, those that need
    one token (decodes) before prompts, so that a long prompt fills what decodes leave and never
    delays them by more than the step budget allows; then waiting ones are admitted (in the order of
    `waiting_queue.py`). When blocks run out, the running sequence of the lowest priority and latest
    arrival releases its blocks and waits to be run again (preemption by recompute).
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
        slots: WindowSlots | None = None,
        states: StateCache | None = None,
        switch_length: int | None = None,
    ) -> None:
        """Create a scheduler without sequences.

        max_loras: the most different adapters of running sequences; None: any number.
        slots: of the runner, for the windows that sequences listen to; None: they only read.
        states: of the runner's recurrent layers, a slot for each running sequence; None: no such
            layers. Drafts cannot be taken back from a state, so that there is no drafter then.
        switch_length: see Runner.
        """
        self.pool = pool
        self.counters = SchedulerCounters()
        self._max_running = min(max_num_seqs, max_num_batched_tokens)  # each gets a token a step
        if states is not None:
            assert drafter is None
            self._max_running = min(self._max_running, states.slots.num_slots)
        self._max_tokens = max_num_batched_tokens
        self._budget = StepBudget(max_num_batched_tokens)
        self._drafter = drafter
        self._max_loras = max_loras
        self._slots = slots
        self._states = states
        self._switch_length = switch_length
        self._caching = enable_prefix_caching
        self._running: list[Sequence] = []
        self._waiting = WaitingQueue[Sequence]()
        self._deferred_decodes = False  # in the last step

    @property
    def running(self) -> Iterable[Sequence]:
        """The sequences of the batch."""
        return self._running

    @property
    def num_running(self) -> int:
        """Number of sequences in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Number of sequences that wait to join the batch."""
        return len(self._waiting)

    @property
    def num_deferred(self) -> int:
        """Number of waiting sequences whose adapter would be one too many for the batch."""
        if self._max_loras is None or not self._waiting.adapters:
            return 0
        running = {sequence.request.adapter for sequence in self._running} - {""}
        if len(running) < self._max_loras:
            return 0
        counts = self._waiting.adapters.items()
        return sum(count for adapter, count in counts if adapter not in running)

    def adapters_in_use(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the adapters of running and of waiting sequences, each once, in order."""
        running = {sequence.request.adapter for sequence in self._running} - {""}
        return tuple(sorted(running)), tuple(sorted(self._waiting.adapters))

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait to join the batch."""
        if self._outgrows(sequence, 0):
            sequence.become_long()
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence, running or waiting, and release its blocks."""
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._release_blocks(sequence)
        if self._slots is not None and sequence.has_slot:
            self._slots.leave(sequence.window)
            sequence.has_slot = False

    def give_slots_to(self, runner: Any) -> None:
        """Let another runner of the same model use the slots of windows."""
        if self._slots is not None:
            runner.slots = self._slots

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes.

        Running sequences keep their blocks, and others find none of these.
        """
        self.clear_caches()
        for sequence in self._running:
            sequence.num_registered = sys.maxsize

    def clear_caches(self) -> None:
        """Forget what blocks and slots hold that no sequence uses."""
        self.pool.clear()
        if self._states is not None:
            self._states.clear()

    def preempt_all(self) -> None:
        """Preempt all running sequences. No step may be in flight."""
        for sequence in list(self._running):
            self._preempt(sequence)

    def can_run_on(self) -> bool:
        """Return whether the next step can be scheduled without a preemption."""
        if self._switch_length is not None and any(
            self._outgrows(sequence, 0) for sequence in self._running
        ):
            return False
        return self._can_extend_running() and self._victim_for_newcomer() is None

    def _can_extend_running(self) -> bool:
        free = self.pool.free_count
        if len(self._running) <= free:  # one token each is one block at most
            return True
        missing = sum(
            max(0, self.pool.blocks_for(len(sequence.token_ids)) - len(sequence.blocks))
            for sequence in self._running
        )
        return missing <= free

    def schedule(self, *, may_preempt: bool = True) -> list[Chunk]:
        """Return the next step's chunks, decodes first.

        may_preempt: not right after `can_run_on` has said that nothing needs to be preempted.

        Empty only if no sequence has a token left to run.
        """
        if may_preempt:
            self._recompute_outgrown()
            self._preempt_for_newcomer()
        if self._slots is not None:
            self._slots.begin_step()
        deferred = self._deferred_owners()
        # Never their decodes in two steps in a row: their outputs continue, if more slowly.
        no_decodes = frozenset[Owner]() if self._deferred_decodes else deferred
        plan = self._plan(deferred, no_decodes)
        if deferred and not plan.has_prompts:  # no room for the prompts that they were deferred for
            no_decodes = frozenset()
            plan = self._plan(no_decodes, no_decodes)
        self._deferred_decodes = bool(no_decodes)
        chunks = list(plan.chunks.values())
        return chunks if self._states is None else self._states.use(chunks)

    def commit(self, chunk: Chunk, accepted: int = 0) -> None:
        """Record that a chunk has been run, so that other sequences can find its full blocks.

        accepted: how many of its drafts are now tokens of the sequence. What the cache holds of the
            others is overwritten by the tokens that come in their stead.
        """
        sequence = chunk.sequence
        if chunk.samples:
            self._waiting.charge_outputs(sequence, 1 + accepted)
        sequence.num_computed = chunk.end + accepted
        if not self._caching:
            return
        if self._states is not None:
            self._states.commit(chunk)
        full = sequence.num_computed // self.pool.block_size
        if full > sequence.num_registered:
            hashes = sequence.block_hashes(full, self.pool.block_size)
            for index in range(sequence.num_registered, full):
                self.pool.register(sequence.blocks[index], hashes[index])
            sequence.num_registered = full

    def written_tokens(self, sequence: Sequence) -> int:
        """Return how many tokens of a sequence's prompt it has added to the prefix cache."""
        if not self._caching or sequence.num_registered == sys.maxsize:
            return 0
        registered = min(sequence.num_registered * self.pool.block_size, sequence.num_prompt)
        return max(0, registered - (sequence.num_cached_tokens or 0))

    def observe(self, chunks: list[Chunk], seconds: float) -> None:
        """Record how long a step took."""
        if self._slots is not None:  # what encoding took says nothing about tokens
            seconds = max(0.0, seconds - self._slots.take_seconds())
        decode_rows = sum(chunk.count for chunk in chunks if chunk.is_decode)
        prompt_tokens = sum(chunk.count for chunk in chunks) - decode_rows
        self._budget.observe(decode_rows, prompt_tokens, seconds)

    def _plan(self, no_prompts: frozenset[Owner], no_decodes: frozenset[Owner]) -> StepPlan:
        """Plan a step without prompts of some owners, and without decodes of some."""
        plan = StepPlan(self._max_tokens, MAX_PROMPT_LOGPROBS, no_prompts, self._states)
        preemptions = self.counters.preemptions
        self._schedule_running(plan, no_decodes)
        if self.counters.preemptions == preemptions:
            self._admit(plan)
        return plan

    def _schedule_running(self, plan: StepPlan, no_decodes: frozenset[Owner]) -> None:
        decoding = [sequence for sequence in self._running if sequence.num_pending == 1]
        decodes = [sequence for sequence in decoding if sequence.owner not in no_decodes]
        prefills = [
            sequence
            for sequence in self._running
            if sequence.num_pending > 1 and plan.allows_prompt(sequence)
        ]
        prefills.sort(key=lambda sequence: not sequence.deferred_owners)
        self._add_running(decodes, plan)
        prompts_wait = bool(prefills or self._waiting)
        drafter, num_decodes = self._drafter, len(plan.chunks)
        if drafter is not None and num_decodes and drafter.should_draft(num_decodes):
            self._add_drafts(drafter, plan, plan.room // 2 if prompts_wait else plan.room)
        if prompts_wait:
            rows = self._max_tokens - plan.room
            left_out = len(decoding) - len(decodes)
            plan.room = min(plan.room, self._budget.prefill_budget(rows, left_out))
        self._add_running(prefills, plan)

    def _outgrows(self, sequence: Sequence, more: int) -> bool:
        """Return whether a sequence's frequencies are other ones with `more` tokens."""
        if self._switch_length is None or sequence.is_long:
            return False
        return len(sequence.token_ids) + more > self._switch_length

    def _recompute_outgrown(self) -> None:
        """Preempt sequences whose cached keys have other frequencies than their next tokens'."""
        if self._switch_length is None:
            return
        for sequence in list(self._running):
            if self._outgrows(sequence, 0):
                self._preempt(sequence)

    def _preempt_for_newcomer(self) -> None:
        """Preempt a sequence of a full batch if fairness lets the next waiting one join."""
        victim = self._victim_for_newcomer()
        if victim is not None:
            self._preempt(victim)

    def _victim_for_newcomer(self) -> Sequence | None:
        if len(self._running) < self._max_running:
            return None
        newcomer = self._next_waiting()
        if newcomer is None:
            return None
        return pick_victim(newcomer, self._running, self._waiting.counters)

    def _deferred_owners(self) -> frozenset[Owner]:
        """Return the owners that leave the next step to the prompts of others."""
        deferred = frozenset[Owner]()
        for sequence in self._running:
            if sequence.num_pending > 1:
                deferred |= sequence.deferred_owners
        newcomer = self._next_waiting()
        if newcomer is not None and len(self._running) < self._max_running:
            deferred |= self._owners_to_defer(newcomer)
        return deferred

    def _next_waiting(self) -> Sequence | None:
        """Return the next waiting sequence that can join the batch, or None.

        An adapter may be one too many for the batch. Then only requests without one overtake its
        request: those of other adapters, also of adapters that are in the batch, queue behind it,
        so that some adapter's sequences come to an end.
        """
        if not self._waiting:
            return None
        first = self._waiting.first()
        if self._adapter_fits(first):
            return first
        try:
            return self._waiting.first(without_adapter=True)
        except IndexError:
            return None

    def _adapter_fits(self, sequence: Sequence) -> bool:
        """Return whether the batch with the sequence would have no more adapters than allowed."""
        if self._max_loras is None or not sequence.request.adapter:
            return True
        running = {other.request.adapter for other in self._running} - {""}
        return len(running | {sequence.request.adapter}) <= self._max_loras

    def _owners_to_defer(self, newcomer: Sequence) -> frozenset[Owner]:
        return owners_to_defer(newcomer, self._running, self._waiting.counters)

    def _add_drafts(self, drafter: Drafter, plan: StepPlan, room: int) -> None:
        """Add drafts to the decodes, where step and blocks have room for them."""
        for sequence in list(plan.chunks):
            drafts = drafter.propose(sequence, room)
            if self._outgrows(sequence, len(drafts)):
                drafts = drafts[: cast(int, self._switch_length) - len(sequence.token_ids)]
            drafts = drafts[: self._reserve_blocks(sequence, len(drafts))]
            if drafts:
                plan.add_drafts(sequence, drafts)
                room -= len(drafts)

    def _reserve_blocks(self, sequence: Sequence, num_drafts: int) -> int:
        """Allocate blocks for drafts; return for how many of them there are blocks.

        Blocks are allocated only while this does not lead to a preemption soon.
        """
        length = len(sequence.token_ids)
        missing = self.pool.blocks_for(length + num_drafts) - len(sequence.blocks)
        spare = max(self.pool.free_count - len(self._running), 0)
        if missing > 0:
            sequence.blocks += self.pool.allocate(min(missing, spare))
        return min(num_drafts, len(sequence.blocks) * self.pool.block_size - length)

    def _add_running(self, sequences: list[Sequence], plan: StepPlan) -> None:
        for sequence in sequences:
            if plan.room == 0:
                break
            if not sequence.blocks:  # preempted a moment ago for one before it
                continue
            count = plan.count_for(sequence)
            if count and self._extend(sequence, sequence.num_computed + count, plan):
                plan.add(sequence, count)

    def _admit(self, plan: StepPlan) -> None:
        """Let waiting sequences join the batch while it has room."""
        while plan.room > 0 and len(self._running) < self._max_running:
            sequence = self._next_waiting()
            if sequence is None or not plan.allows_prompt(sequence):
                return
            if not (self._slot_allows(sequence, plan) and self._allocate(sequence)):
                return
            self._join_slot(sequence)
            out_of_order = sequence is not self._waiting.first()
            sequence.deferred_owners = self._owners_to_defer(sequence)
            again = sequence.scheduled_s is not None  # its tenant has paid for the first time
            prompt_tokens = 0 if again else sequence.num_pending
            self._waiting.admit(sequence, prompt_tokens, out_of_order)
            insort(self._running, sequence, key=lambda other: other.order)
            if not again:
                sequence.scheduled_s = time.monotonic()
            plan.add(sequence, plan.count_for(sequence))

    def _slot_allows(self, sequence: Sequence, plan: StepPlan) -> bool:
        """Return whether the step has time, and the runner room, for a sequence's window."""
        if self._slots is None or sequence.has_slot:
            return True
        has_decodes = any(chunk.is_decode for chunk in plan.chunks.values())
        return self._slots.admits(sequence.window, beside_decodes=has_decodes)

    def _join_slot(self, sequence: Sequence) -> None:
        if self._slots is not None and not sequence.has_slot:
            self._slots.join(sequence.window)
            sequence.has_slot = True

    def _allocate(self, sequence: Sequence) -> bool:
        """Hold blocks for all of a waiting sequence's tokens, as many as possible from the cache.

        All at once, so that two prompts that fit only one after the other do not start together.
        A block for each running sequence is left free: else the first of them to grow would
        preempt the newcomer, whose prompt would have been run for nothing.

        Returns False, and holds none, if there are too few blocks, or no slot for its state.
        """
        states = self._states
        found = self._find_prefix(sequence)
        cached = found if states is None else states.usable_prefix(sequence, found)
        missing = self.pool.blocks_for(len(sequence.token_ids)) - len(cached)
        free = self.pool.free_count - self.pool.free_among(cached)
        if missing + len(self._running) > free:
            return False
        if states is not None and not states.admit(sequence, len(cached), len(found)):
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
        """Return the cached blocks of a sequence's prefix, which ends before its last token."""
        if not self._caching or sequence.lacks_prompt_logprobs:
            return []
        full = (len(sequence.token_ids) - 1) // self.pool.block_size
        return self.pool.find(sequence.block_hashes(full, self.pool.block_size))

    def _extend(self, sequence: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Hold blocks for so many tokens, preempting others if blocks run out.

        Returns False if the sequence itself was preempted.
        """
        missing = self.pool.blocks_for(num_tokens) - len(sequence.blocks)
        while missing > self.pool.free_count:
            victim = self._running[-1]
            self._preempt(victim)
            plan.remove(victim)
            if victim is sequence:
                return False
        if missing > 0:
            sequence.blocks += self.pool.allocate(missing)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release_blocks(sequence)
        self.add(sequence)
        sequence.preemptions += 1
        self.counters.preemptions += 1

    def _release_blocks(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = 0
        sequence.num_registered = 0
        if self._states is not None:
            self._states.release(sequence)
