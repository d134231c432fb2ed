"""Give sequences the slots of their recurrent layers' states, and decide which snapshots are made.

A state stands for all tokens before it, so that a cached prefix can be used up to a position where
a snapshot was made, and no other. Snapshots are made at borders of blocks, where a later request is
likely to continue:

- at the last border of a prompt: the same prompt comes again, or a longer one;
- where the keys and values of other requests end that a prompt has in common with them: prompts
  that branch there come again (as in Pan et al., "Marconi: Prefix Caching for the Era of Hybrid
  LLMs", MLSys 2025);
- where a step has no room for more of a long prompt, since others may have a part of it in common,
  and it may be preempted. Of these the last one is kept, and those that are twice as far as the one
  before;
- while a sequence decodes, at each border: the next turn of a chat continues from the last one, so
  that each replaces the one before.

A slot that a sequence gives up may be another's in the next step, while the step before is in
flight, since steps touch the slots in the order of their launches.
"""

import sys
from dataclasses import dataclass, replace

from headrace.workers.engine.state_slots import StateSlots
from headrace.workers.sequence.held_state import HeldState
from headrace.workers.sequence.sequence import Chunk, Sequence
from headrace.workers.sequence.state_use import StateUse

# A chunk that ends early costs a step more: only for a snapshot that can save so many blocks.
MIN_BLOCKS_SAVED = 2


@dataclass(frozen=True, slots=True)
class _Saving:
    """A snapshot that a launched chunk makes; the sequence's next one may replace it."""

    chunk: Chunk
    is_replaceable: bool


class StateCache:
    """The slots of a runner's states, as its scheduler uses them.

    slots: the pool of them.
    """

    def __init__(self, num_slots: int, block_size: int, *, makes_snapshots: bool) -> None:
        self.slots = StateSlots(num_slots)
        self._block_size = block_size
        self._makes_snapshots = makes_snapshots
        self._num_held = 0  # by sequences
        self._saving: dict[int, _Saving] = {}  # by slots, which these hold

    def usable_prefix(self, sequence: Sequence, found: list[int]) -> list[int]:
        """Return the longest part of a sequence's cached blocks after which there is a snapshot."""
        hashes = sequence.hashes
        for count in range(len(found), 0, -1):
            if self.slots.find(hashes[count - 1]) is not None:
                return found[:count]
        return []

    def admit(self, sequence: Sequence, cached: int, found: int) -> bool:
        """Give a slot to a sequence whose first `cached` blocks are taken from the cache.

        found: how many blocks the cache has of it, with or without a snapshot.

        Returns False if all slots are held, or pinned until the next chunks that begin with them.
        """
        snapshot = self.slots.find(sequence.hashes[cached - 1]) if cached else None
        if snapshot is not None:
            self.slots.pin(snapshot)
        slot = self._take()
        if slot is None:
            if snapshot is None:
                return False
            self.slots.unpin(snapshot)
            if not self.slots.claim(snapshot):
                return False
            slot, snapshot = snapshot, None
        self._num_held += 1
        start = cached * self._block_size
        stops = self._stops(sequence, start, found)
        sequence.state = HeldState(slot, snapshot, stops, kept_at=start, saved_at=start)
        return True

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's slot away, if it has one, and those of snapshots that it was making."""
        held = sequence.state
        if held is None:
            return
        sequence.state = None
        self._num_held -= 1
        self.slots.give_back(held.slot)
        if held.restored_from is not None:
            self.slots.unpin(held.restored_from)
        for slot, saving in list(self._saving.items()):
            if saving.chunk.sequence is sequence:
                self._stop_saving(slot)

    def shorten(self, sequence: Sequence, count: int) -> int:
        """Return how many of the sequence's next tokens to run, `count` or fewer for a snapshot."""
        held = sequence.state
        if count == 1 or held is None or not self._makes_snapshots:
            return count
        start, end = sequence.num_computed, sequence.num_computed + count
        for stop in held.stops:
            if start < stop <= end:
                return stop - start
        border = end - end % self._block_size
        return border - start if end < len(sequence.token_ids) and border > start else count

    def use(self, chunks: list[Chunk]) -> list[Chunk]:
        """Return the chunks of a step that is about to be launched, with what they do to slots.

        Most come back as they are: `plain_use` is already theirs.
        """
        used = []
        restored = []
        for chunk in chunks:
            held = chunk.sequence.state
            assert held is not None
            saved_to = self._slot_to_save(chunk, held)
            if held.restored_from is not None:
                restored.append(held)
            elif saved_to is None:
                used.append(chunk)
                continue
            use = StateUse(held.slot, held.restored_from, saved_to)
            used.append(replace(chunk, state=use))
            if saved_to is not None:
                self._note_saving(saved_to, used[-1], held)
        for held in restored:
            assert held.restored_from is not None
            self.slots.unpin(held.restored_from)
            held.restored_from = None
        return used

    def _note_saving(self, slot: int, chunk: Chunk, held: HeldState) -> None:
        is_kept = self._is_kept(chunk, held)
        held.saved_at = chunk.end
        if is_kept:
            held.kept_at = chunk.end
        self._saving[slot] = _Saving(chunk, not is_kept)

    def commit(self, chunk: Chunk) -> None:
        """Let others find the snapshot that a chunk has made, unless its slot was taken away."""
        slot = None if chunk.state is None else chunk.state.saved_to
        saving = None if slot is None else self._saving.get(slot)
        if slot is None or saving is None or saving.chunk is not chunk:
            return
        del self._saving[slot]
        sequence, held = chunk.sequence, chunk.sequence.state
        assert held is not None
        block_hash = sequence.block_hashes(chunk.end // self._block_size, self._block_size)[-1]
        self.slots.register(slot, block_hash, sequence.arrival if saving.is_replaceable else None)
        if held.replaceable is not None:
            self.slots.discard(held.replaceable, sequence.arrival)
        held.replaceable = block_hash if saving.is_replaceable else None

    def clear(self) -> None:
        """Forget all snapshots, also those that are being made. Sequences keep their slots."""
        self.slots.clear()
        for slot in list(self._saving):
            self._stop_saving(slot)

    def _take(self) -> int | None:
        """Hold a slot for a sequence, if need be of a snapshot that a step in flight makes."""
        slot = self.slots.take()
        if slot is None and self._saving:
            slot, _ = self._saving.popitem()
        return slot

    def _stop_saving(self, slot: int) -> None:
        del self._saving[slot]
        self.slots.give_back(slot)

    def _stops(self, sequence: Sequence, start: int, found: int) -> tuple[int, ...]:
        """Return where chunks end early in a sequence that begins at `start`."""
        size = self._block_size
        last = (sequence.num_prompt - 1) // size * size
        stops = []
        for stop in sorted((found * size, last)):
            if stop - start >= MIN_BLOCKS_SAVED * size:
                stops.append(stop)
                start = stop
        return tuple(stops)

    def _slot_to_save(self, chunk: Chunk, held: HeldState) -> int | None:
        """Hold a slot for a snapshot after a chunk; return None if the chunk makes none."""
        if not self._makes_snapshots or chunk.end % self._block_size:
            return None
        if chunk.sequence.num_registered == sys.maxsize:  # began before the cache was reset
            return None
        if chunk.samples:  # where there is no room for one each, they would evict each other
            is_wanted = 2 * self._num_held <= self.slots.num_slots
        else:
            saved_blocks = (chunk.end - held.saved_at) // self._block_size
            is_wanted = saved_blocks >= MIN_BLOCKS_SAVED or chunk.end in held.stops
        return self.slots.take(is_snapshot=True) if is_wanted else None

    @staticmethod
    def _is_kept(chunk: Chunk, held: HeldState) -> bool:
        return chunk.end in held.stops or (not chunk.samples and chunk.end >= 2 * held.kept_at)
