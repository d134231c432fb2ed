"""Slots of states: who holds them, and which snapshots are dropped for whom."""

from headrace.workers.engine.state_cache import StateCache
from headrace.workers.engine.state_slots import StateSlots
from headrace.workers.sequence.sequence import Chunk, Sequence
from tests.workers.driving import request
from tests.workers.engine.stateful import (
    words,
)


def admitted(states: StateCache, name: str) -> Sequence:
    sequence = Sequence.of(request(name, words(1, 64)), 1, 0.0)
    found = states.usable_prefix(sequence, [0] * len(sequence.block_hashes(3, 16)))
    assert states.admit(sequence, len(found), len(found))
    sequence.num_computed = 16 * len(found)
    return sequence


def chunk_to(sequence: Sequence, end: int) -> Chunk:
    return Chunk(sequence, sequence.num_computed, end - sequence.num_computed, False)


def test_what_was_saved_to_a_slot_is_no_snapshot_once_another_is_saved_there() -> None:
    states = StateCache(1, 16, makes_snapshots=True)
    slot = states.slots.take()
    assert slot is not None
    states.slots.give_back(slot)
    sequence = admitted(states, "a")
    states.slots.give_back(slot)  # as if the sequence had another one
    (first,) = states.use([chunk_to(sequence, 32)])
    assert first.state is not None
    assert first.state.saved_to == slot
    assert states._take() == slot
    states.slots.give_back(slot)
    (second,) = states.use([chunk_to(sequence, 64)])
    states.commit(first)
    assert states.slots.snapshot_count == 0
    states.commit(second)
    assert states.slots.find(sequence.block_hashes(4, 16)[3]) == slot


def test_a_sequence_that_ends_before_its_first_chunk_leaves_its_snapshot_unpinned() -> None:
    states = StateCache(3, 16, makes_snapshots=True)
    first = admitted(states, "a")
    states.commit(*states.use([chunk_to(first, 48)]))
    states.release(first)
    second = admitted(states, "b")
    assert second.state is not None
    assert second.state.restored_from is not None
    states.release(second)
    assert [states.slots.take() for _ in range(3)].count(None) == 0


def test_the_least_recently_used_snapshot_gives_its_slot_up() -> None:
    slots = StateSlots(3)
    for name in (b"a", b"b", b"c"):
        slot = slots.take()
        assert slot is not None
        slots.register(slot, name, None)
    first, second = slots.find(b"a"), slots.find(b"b")
    assert first is not None
    assert second is not None
    slots.pin(first)
    assert slots.take() == second
    assert slots.find(b"b") is None
    slots.unpin(first)
    assert slots.take() is not None
    assert slots.find(b"a") == first  # used when it was pinned
    slots.pin(first)
    assert slots.take() is None
    assert not slots.claim(first)
    slots.clear()
    assert slots.take() is None  # what is pinned stays until it has been read
    slots.unpin(first)
    assert slots.take() == first


def test_only_its_owner_discards_a_snapshot_that_nobody_else_has_used() -> None:
    slots = StateSlots(4)
    for name in (b"mine", b"both", b"read"):
        slot = slots.take()
        assert slot is not None
        slots.register(slot, name, 1)
    again, read = slots.take(), slots.find(b"read")
    assert again is not None
    assert read is not None
    slots.register(again, b"both", 2)
    slots.pin(read)
    slots.unpin(read)
    slots.discard(b"mine", 2)
    assert slots.snapshot_count == 3
    for name in (b"mine", b"both", b"read", b"none"):
        slots.discard(name, 1)
    assert slots.snapshot_count == 2
    assert slots.find(b"mine") is None
    assert slots.free_count == 2


def test_sequences_are_side_by_side() -> None:
    slots = StateSlots(6)
    assert [slots.take(), slots.take(is_snapshot=True), slots.take(), slots.take()] == [0, 5, 1, 2]
    slots.give_back(1)
    slots.give_back(5)
    assert [slots.take(is_snapshot=True), slots.take()] == [5, 1]
