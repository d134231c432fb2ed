"""Allocate the slots of recurrent layers' states, and find snapshots again by their content.

A slot is free, held by a running sequence or by a step that saves a snapshot to it, or has a
snapshot, which is found by the hash of the last full block before it. If no slot is free, the
snapshot that was used least recently gives its slot up, unless it is pinned.
"""

from bisect import insort
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Snapshot:
    """A snapshot: its hash (None: forgotten), its pins, and whose later ones may replace it."""

    block_hash: bytes | None
    owner: int | None
    pins: int = 0


class StateSlots:
    """`num_slots` slots, and the snapshots in those that nobody holds."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots))  # ascending
        self._snapshots: OrderedDict[int, _Snapshot] = OrderedDict()  # least recently used first
        self._slot_of: dict[bytes, int] = {}

    @property
    def free_count(self) -> int:
        """Number of slots that have neither a holder nor a snapshot."""
        return len(self._free)

    @property
    def snapshot_count(self) -> int:
        """Number of slots that have a snapshot, pinned ones included."""
        return len(self._snapshots)

    def find(self, block_hash: bytes) -> int | None:
        """Return the slot of the snapshot after the block with this hash; None: there is none."""
        return self._slot_of.get(block_hash)

    def take(self, *, is_snapshot: bool = False) -> int | None:
        """Hold a slot; return None if all are held or pinned.

        is_snapshot: whether it is for a snapshot. Those get the highest free slots and sequences
        the lowest, so that running sequences are side by side: a batch of them is then read and
        written in place.
        """
        if self._free:
            return self._free.pop(-1 if is_snapshot else 0)
        for slot, snapshot in self._snapshots.items():
            if not snapshot.pins:
                self._forget(slot)
                return slot
        return None

    def give_back(self, slot: int) -> None:
        """Free a slot that is held."""
        insort(self._free, slot)

    def register(self, slot: int, block_hash: bytes, owner: int | None) -> None:
        """Turn a held slot into a snapshot, that `find` returns by its hash.

        owner: the arrival of the sequence that may `discard` it; None: none may. Of equal snapshots
        the first is kept, and is then nobody's.
        """
        equal = self._slot_of.get(block_hash)
        if equal is not None:
            insort(self._free, slot)
            self._snapshots[equal].owner = None
            self._snapshots.move_to_end(equal)
            return
        self._slot_of[block_hash] = slot
        self._snapshots[slot] = _Snapshot(block_hash, owner)

    def discard(self, block_hash: bytes, owner: int) -> None:
        """Free the slot of a snapshot if it is the owner's and not pinned."""
        slot = self._slot_of.get(block_hash)
        if slot is None:
            return
        snapshot = self._snapshots[slot]
        if snapshot.owner == owner and not snapshot.pins:
            self._forget(slot)
            insort(self._free, slot)

    def pin(self, slot: int) -> None:
        """Keep a snapshot until `unpin`. It counts as used now, and is nobody's any more."""
        snapshot = self._snapshots[slot]
        snapshot.pins += 1
        snapshot.owner = None
        self._snapshots.move_to_end(slot)

    def unpin(self, slot: int) -> None:
        """Take a pin away; a snapshot that was forgotten meanwhile ends with its last pin."""
        snapshot = self._snapshots[slot]
        snapshot.pins -= 1
        if not snapshot.pins and snapshot.block_hash is None:
            self._forget(slot)
            insort(self._free, slot)

    def claim(self, slot: int) -> bool:
        """Hold a snapshot's slot with the state that is in it; return False if it is pinned."""
        if self._snapshots[slot].pins:
            return False
        self._forget(slot)
        return True

    def clear(self) -> None:
        """Forget all snapshots. Slots that are held stay held."""
        self._slot_of.clear()
        for slot, snapshot in list(self._snapshots.items()):
            snapshot.block_hash = None
            if not snapshot.pins:
                self._forget(slot)
                insort(self._free, slot)

    def _forget(self, slot: int) -> None:
        snapshot = self._snapshots.pop(slot)
        if snapshot.block_hash is not None:
            del self._slot_of[snapshot.block_hash]
