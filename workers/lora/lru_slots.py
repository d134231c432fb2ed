"""Slots that are reused in least-recently-used order. Does not import torch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class LruSlots(Generic[T]):
    """A fixed number of slots, filled when a step needs an item that is in none of them.

    fill: puts an item into a slot, replacing its content; if it raises, the slot counts as empty.
    """

    def __init__(self, num_slots: int, fill: Callable[[int, T], None]) -> None:
        self._fill = fill
        self._contents: list[T | None] = [None] * num_slots
        self._last_used: list[int] = [0] * num_slots  # the number of the last step that used it
        self._steps = 0

    def __len__(self) -> int:
        return len(self._contents)

    def load(self, items: Mapping[str, T]) -> dict[str, int]:
        """Load the items of a step and return their slots, under the same names.

        Raises RuntimeError if there are more items than slots.
        """
        self._steps += 1
        slots = {}
        for name, item in items.items():
            loaded = self._find(item)
            if loaded is not None:
                slots[name] = loaded
                self._last_used[loaded] = self._steps
        for name in sorted(items.keys() - slots.keys()):
            slots[name] = slot = self._least_recently_used()
            self._contents[slot] = None
            self._fill(slot, items[name])
            self._contents[slot] = items[name]
            self._last_used[slot] = self._steps
        return slots

    def clear(self) -> Iterable[int]:
        """Forget all items; return the slots that held one."""
        occupied = [slot for slot, item in enumerate(self._contents) if item is not None]
        self._contents = [None] * len(self._contents)
        return occupied

    def _find(self, item: T) -> int | None:
        slots = (slot for slot, content in enumerate(self._contents) if content is item)
        return next(slots, None)

    def _least_recently_used(self) -> int:
        slot = min(range(len(self._contents)), key=self._last_used.__getitem__)
        if self._last_used[slot] == self._steps:
            raise RuntimeError(f"a step has more than {len(self._contents)} adapters")
        return slot
