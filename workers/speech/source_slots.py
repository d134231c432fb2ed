"""Places for what an encoder makes of windows: which window has which, and until when.

A window that several requests name has one place. It keeps it while one of them lives, and a little
longer, as what follows a request often asks about the same window.
"""

from collections.abc import Iterator
from dataclasses import dataclass

# Windows that no request names and that are kept nevertheless.
_KEPT = 4
# Seconds that encoding may take in a step without decodes; beside them one window is encoded.
_LONGEST_S = 1.0


@dataclass(slots=True)
class _Place:
    """users: requests that name its window. is_filled: whether the window has been encoded."""

    slot: int
    users: int = 0
    is_filled: bool = False


class SourceSlots:
    """The slots of a runner, by the digests of windows. num_slots: at least 1."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._places: dict[bytes, _Place] = {}  # those without users in the order of their ends
        self._free = list(range(num_slots - 1, -1, -1))
        self._encode_s = 0.0  # what a window takes
        self._new = 0  # windows of this step that must be encoded
        self._step_s = 0.0
        self.encoded = 0

    def begin_step(self) -> None:
        """Count the windows of the next step from 0."""
        self._new = 0

    def admits(self, digest: bytes, *, beside_decodes: bool) -> bool:
        """Return whether a request for a window may join the next step."""
        place = self._places.get(digest)
        if place is not None and (place.is_filled or place.users):
            return True
        if place is None and not self._free and self._idle() is None:
            return False
        # What a window takes is unknown before the first: that one is encoded by itself.
        alone = beside_decodes or not self._encode_s
        most = 1 if alone else max(1, int(_LONGEST_S / self._encode_s))
        return self._new < most

    def join(self, digest: bytes) -> None:
        """Let one more request use the window's slot; `admits` has been asked before."""
        place = self._places.pop(digest, None)
        if place is None:
            place = _Place(self._take_slot())
        if not (place.is_filled or place.users):
            self._new += 1
        place.users += 1
        self._places[digest] = place

    def leave(self, digest: bytes) -> None:
        """Take one request away from a window that it has joined."""
        place = self._places.pop(digest)
        place.users -= 1
        if place.users or place.is_filled:
            self._places[digest] = place
        else:
            self._free.append(place.slot)

    def slot_of(self, digest: bytes) -> int:
        """Return the slot of a window that a request has joined."""
        return self._places[digest].slot

    def is_filled(self, digest: bytes) -> bool:
        """Return whether the window's slot holds what the encoder makes of it."""
        return self._places[digest].is_filled

    def fill(self, digest: bytes, seconds: float) -> None:
        """Record that a window has been encoded, and how long it took."""
        self._places[digest].is_filled = True
        self._encode_s = seconds if not self._encode_s else (self._encode_s + seconds) / 2
        self._step_s += seconds
        self.encoded += 1

    def take_seconds(self) -> float:
        """Return the seconds of encoding since the last call."""
        seconds, self._step_s = self._step_s, 0.0
        return seconds

    @property
    def encode_s(self) -> float:
        """What encoding a window takes, in seconds; 0: unknown yet."""
        return self._encode_s

    def clear(self) -> None:
        """Forget what the slots hold: their memory is given back."""
        for digest in [digest for digest, place in self._places.items() if not place.users]:
            self._free.append(self._places.pop(digest).slot)
        for place in self._places.values():
            place.is_filled = False

    def _idle(self) -> bytes | None:
        """Return the window whose last request ended first, among those without requests."""
        return next(self._unused(), None)

    def _unused(self) -> Iterator[bytes]:
        return (digest for digest, place in self._places.items() if not place.users)

    def _take_slot(self) -> int:
        idle = list(self._unused())
        if idle and (len(idle) >= _KEPT or not self._free):
            return self._places.pop(idle[0]).slot
        return self._free.pop()
