"""The places of a pool's workers: which there are to be, and what became of each one's starts.

"chat-0.3" is the fourth start of place "chat-0", the first of group "chat".
"""

from collections.abc import Iterable, Iterator

from headrace.protocol.common.restarts import Restarts
from headrace.protocol.config import PoolConfig


class Places:
    """wanted: how many places each group is to have. A group that shrinks loses the last ones; what
    is known of them is kept, for when it grows again."""

    def __init__(self, config: PoolConfig) -> None:
        self.wanted = {group.name: group.workers for group in config.groups}
        self._restarts: dict[str, Restarts] = {}
        for group, count in self.wanted.items():
            self.resize(group, count)

    def resize(self, group: str, count: int) -> None:
        """Places that come begin without the failures of an earlier time."""
        before = set(self.of_group(group))
        self.wanted[group] = count
        for place in self.of_group(group):
            restarts = self._restarts.setdefault(place, Restarts(place))
            if place not in before:
                restarts.forget_failures()

    def of_group(self, group: str) -> list[str]:
        """The places that it is to have."""
        return [f"{group}-{number}" for number in range(self.wanted[group])]

    def is_wanted(self, place: str) -> bool:
        group, _, number = place.rpartition("-")
        return number.isdecimal() and int(number) < self.wanted.get(group, 0)

    def note(self, place: str) -> None:
        """Somebody is there: in a place of a group that was larger, perhaps."""
        if group_of(place) in self.wanted:
            self._restarts.setdefault(place, Restarts(place))

    def is_known(self, place: str) -> bool:
        """Whether it is, or has been, a place of this pool."""
        return place in self._restarts

    def restarts(self, place: str) -> Restarts:
        """KeyError if there has never been such a place."""
        return self._restarts[place]

    def to_fill(self, filled: Iterable[str], now: float) -> Iterator[Restarts]:
        """Wanted places where nobody is, and where somebody may be started now."""
        taken = set(filled)
        for group in self.wanted:
            for place in self.of_group(group):
                if place not in taken and self._restarts[place].allowed(now):
                    yield self._restarts[place]

    def problem(self, group: str) -> str:
        """What the first place says in which something is wrong."""
        problems = (self._restarts[place].problem for place in self.of_group(group))
        return next(filter(None, problems), "")


def place_of(worker_id: str) -> str:
    """ "chat-0" of "chat-0.3": the place in the group, whichever start fills it."""
    return worker_id.rpartition(".")[0]


def group_of(place: str) -> str:
    """ "chat" of "chat-0"."""
    return place.rpartition("-")[0]
