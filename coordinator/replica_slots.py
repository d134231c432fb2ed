"""The replica slots of a pool: how many each group has, and the starts and failures of each.

"chat-0.3" is the fourth start of replica slot "chat-0", the first of group "chat".
"""

from collections.abc import Iterable, Iterator

from headrace.protocol.common.restart_backoff import RestartBackoff
from headrace.protocol.config import PoolConfig


class ReplicaSlots:
    """The replica slots of all groups.

    target_sizes: how many slots each group has. A group that shrinks loses the last ones; their
        history is kept for when it grows again.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.target_sizes = {group.name: group.workers for group in config.groups}
        self._restarts: dict[str, RestartBackoff] = {}
        for group, count in self.target_sizes.items():
            self.resize(group, count)

    def resize(self, group: str, count: int) -> None:
        """Change the number of slots. New slots begin without their earlier failures."""
        before = set(self.of_group(group))
        self.target_sizes[group] = count
        for slot in self.of_group(group):
            restarts = self._restarts.setdefault(slot, RestartBackoff(slot))
            if slot not in before:
                restarts.forget_failures()

    def of_group(self, group: str) -> list[str]:
        """Return the slots of a group."""
        return [f"{group}-{number}" for number in range(self.target_sizes[group])]

    def all(self) -> list[str]:
        """Return the slots of all groups."""
        return [slot for group in self.target_sizes for slot in self.of_group(group)]

    def is_current(self, slot: str) -> bool:
        """Return whether the pool has this slot now."""
        group, _, number = slot.rpartition("-")
        return number.isdecimal() and int(number) < self.target_sizes.get(group, 0)

    def note(self, slot: str) -> None:
        """Note that a slot is filled, perhaps one of a group that was larger."""
        if group_of(slot) in self.target_sizes:
            self._restarts.setdefault(slot, RestartBackoff(slot))

    def is_known(self, slot: str) -> bool:
        """Return whether this is, or has been, a slot of the pool."""
        return slot in self._restarts

    def restarts(self, slot: str) -> RestartBackoff:
        """Return the starts and failures of a slot. Raises KeyError if it never existed."""
        return self._restarts[slot]

    def slots_to_fill(self, filled: Iterable[str], now: float) -> Iterator[RestartBackoff]:
        """Yield the empty slots in which a worker may be started now."""
        occupied = set(filled)
        for group in self.target_sizes:
            for slot in self.of_group(group):
                if slot not in occupied and self._restarts[slot].allowed(now):
                    yield self._restarts[slot]

    def problem(self, group: str) -> str:
        """Return the problem of the first slot that has one; "" if none has."""
        problems = (self._restarts[slot].problem for slot in self.of_group(group))
        return next(filter(None, problems), "")


def slot_of(worker_id: str) -> str:
    """Return the replica slot of a worker: "chat-0" of "chat-0.3"."""
    return worker_id.rpartition(".")[0]


def group_of(slot: str) -> str:
    """Return the group of a replica slot: "chat" of "chat-0"."""
    return slot.rpartition("-")[0]
