"""What a chunk does with the slots in which a runner keeps states of recurrent layers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StateUse:
    """The slots of a chunk's state, by their numbers.

    slot: of the sequence: its state is read from it, and written to it after the chunk. A chunk
        that starts at position 0 reads none.
    restored_from: a snapshot that is copied to `slot` before the chunk; None: `slot` has the state
        after the sequence's tokens before the chunk.
    saved_to: where the state after the chunk is copied to as a snapshot; None: nowhere.

    Copies take place in this order: of all chunks of a step those before, the chunks, those after.
    """

    slot: int
    restored_from: int | None = None
    saved_to: int | None = None
