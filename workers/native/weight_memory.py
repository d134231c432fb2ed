"""Where packed weights lie: in a file that other workers share, or in memory of this process."""

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from headrace.workers.native.library import load_kernels
from headrace.workers.native.packed_weight import ALIGNMENT, PackedWeight
from headrace.workers.native.shared_file import SharedFile, SharedMapping

_LAYOUT_VERSION = 1  # to be counted up when panels or their order change without the kernels
_CHUNK_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class SharedWeights:
    """A group's file, and which weights on the disk are to be in it (see `identify`)."""

    file: SharedFile
    fingerprint: str


class WeightMemory:
    """Memory in which panels are packed, for as long as this object is. MemoryError if there is
    none.

    num_bytes: of the panels. note: for the operator, whether they are shared.
    """

    def __init__(
        self, panels: Sequence[PackedWeight], threads: int, shared: SharedWeights | None = None
    ) -> None:
        self.num_bytes = sum(each.num_bytes for each in panels)
        self._panels, self._threads = panels, threads
        self._mapping: SharedMapping | None = None
        self.note = "not shared"
        if shared is None or not self._share(shared):
            self._allocate_chunks()
            self._pack()
        for each in panels:
            each.release_source()
        del self._panels

    @property
    def is_shared(self) -> bool:
        return self._mapping is not None

    def _share(self, shared: SharedWeights) -> bool:
        """Whether the panels are in the group's file now."""
        offsets = [0, *accumulate(_align(each.num_bytes) for each in self._panels)]

        def place(address: int) -> None:
            for each, offset in zip(self._panels, offsets, strict=False):
                each.set_address(address + offset)

        def fill(address: int) -> None:
            place(address)
            self._pack()

        found = shared.file.map(offsets[-1], _key(shared, self._panels), fill)
        if isinstance(found, str):
            self.note = f"not shared: {found}"
            return False
        place(found.address)
        self._mapping = found
        self.note = "shared, packed before" if found.was_filled else "shared"
        return True

    def _allocate_chunks(self) -> None:
        """In few large pieces: one for each weight would waste half a huge page on each."""
        place = end = 0
        for each in self._panels:
            size = _align(each.num_bytes)
            if place + size > end:
                piece = max(size, _CHUNK_BYTES)
                place = self._allocate(piece)
                end = place + piece
            each.set_address(place)
            place += size

    def _allocate(self, num_bytes: int) -> int:
        library = load_kernels()
        assert library is not None
        address = library.allocate(num_bytes)
        if not address:
            raise MemoryError("no memory for the weights")
        weakref.finalize(self, library.free, address, num_bytes)
        return address

    def _pack(self) -> None:
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(PackedWeight.pack, self._panels):
                pass


def fingerprint_weights(model_path: Path) -> str:
    """Which weights a folder has now, told by its files' stamps: other weights, another text."""
    files = sorted([*model_path.glob("*.safetensors"), model_path / "config.json"])
    return repr([(str(file.resolve()), *_file_stamp(file)) for file in files])


def _file_stamp(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _key(shared: SharedWeights, panels: Sequence[PackedWeight]) -> str:
    """All that the bytes depend on."""
    library = load_kernels()
    assert library is not None
    plans = [each.plan for each in panels]
    return repr((_LAYOUT_VERSION, torch.__version__, library.build, shared.fingerprint, plans))


def _align(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
