"""Room for some adapters; who has not been used for longest goes first. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class LruSlots(Generic[T]):
    """Slots that are filled when a step needs what is not in one.

    fill: puts something into a slot in place of what it held; should it raise, the slot is empty.
    """

    def __init__(self, num_slots: int, fill: Callable[[int, T], None]) -> None:
        self._fill = fill
        self._contents: list[T | None] = [None] * num_slots
        self._last_used: list[int] = [0] * num_slots  # in which step, counted by _steps
        self._steps = 0

    def __len__(self) -> int:
        return len(self._contents)

    def load(self, wanted: Mapping[str, T]) -> dict[str, int]:
        """The slots of what a step needs, by the same names. RuntimeError if it needs more than
        there is room for."""
        self._steps += 1
        slots = {}
        for name, each in wanted.items():
            held = self._find(each)
            if held is not None:
                slots[name] = held
                self._last_used[held] = self._steps
        for name in sorted(wanted.keys() - slots.keys()):
            slots[name] = slot = self._least_recently_used()
            self._contents[slot] = None
            self._fill(slot, wanted[name])
            self._contents[slot] = wanted[name]
            self._last_used[slot] = self._steps
        return slots

    def clear(self) -> Iterable[int]:
        """Hold nothing; the slots that held something."""
        held = [slot for slot, each in enumerate(self._contents) if each is not None]
        self._contents = [None] * len(self._contents)
        return held

    def _find(self, wanted: T) -> int | None:
        found = (slot for slot, each in enumerate(self._contents) if each is wanted)
        return next(found, None)

    def _least_recently_used(self) -> int:
        slot = min(range(len(self._contents)), key=self._last_used.__getitem__)
        if self._last_used[slot] == self._steps:
            raise RuntimeError(f"a step has more than {len(self._contents)} adapters")
        return slot
