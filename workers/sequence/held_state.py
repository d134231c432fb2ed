"""Say where a running sequence keeps the state of its recurrent layers."""

from dataclasses import dataclass, field

from headrace.workers.sequence.state_use import StateUse


@dataclass(slots=True)
class HeldState:
    """The slot of a sequence's state, and the snapshots that are made of it.

    slot: its number.
    restored_from: the slot of the snapshot that its next chunk begins with; None: no snapshot.
    stops: positions at which chunks of its prompt end, for a snapshot that is kept; ascending.
    kept_at, saved_at: the positions of its last snapshot that is kept, and of its last one; at
        first that of the snapshot that it was restored from.
    replaceable: the hash of the snapshot that its next one replaces; None: there is none.
    plain_use: of chunks before and after which nothing is copied, as are most.
    """

    slot: int
    restored_from: int | None = None
    stops: tuple[int, ...] = ()
    kept_at: int = 0
    saved_at: int = 0
    replaceable: bytes | None = None
    plain_use: StateUse = field(init=False)

    def __post_init__(self) -> None:
        self.plain_use = StateUse(self.slot)
