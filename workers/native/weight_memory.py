"""Allocate and fill the memory of packed weights: a file shared by workers, or private memory."""

import contextlib
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from headrace.protocol.common.gguf_reference import GGUFFilesError, read_reference
from headrace.workers.native.experts.packing import PackedExperts
from headrace.workers.native.library import require_kernels
from headrace.workers.native.packed_weight import ALIGNMENT, PackedWeight
from headrace.workers.native.shared_file import SharedFile, SharedMapping

_LAYOUT_VERSION = 1  # increase when the layout of packed weights changes but not the kernels
_CHUNK_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class SharedWeights:
    """A group's file and the fingerprint of the weights it must hold; see `fingerprint_weights`."""

    file: SharedFile
    fingerprint: str


class WeightMemory:
    """The memory of a model's packed weights, held as long as this object lives.

    num_bytes: total size of the packed weights. note: for the operator, whether they are shared.

    Raises MemoryError if there is not enough memory.
    """

    def __init__(
        self,
        weights: Sequence[PackedWeight | PackedExperts],
        threads: int,
        shared: SharedWeights | None = None,
    ) -> None:
        self.num_bytes = sum(weight.num_bytes for weight in weights)
        self._weights, self._threads = weights, threads
        self._mapping: SharedMapping | None = None
        self.note = "not shared"
        if shared is None or not self._share(shared):
            self._allocate_chunks()
            self._pack()
        for weight in weights:
            weight.release_source()
        del self._weights

    @property
    def is_shared(self) -> bool:
        return self._mapping is not None

    def _share(self, shared: SharedWeights) -> bool:
        """Map the group's file, filling it if it is empty; return whether that worked."""
        offsets = [0, *accumulate(_align(weight.num_bytes) for weight in self._weights)]

        def set_addresses(start: int) -> None:
            for weight, offset in zip(self._weights, offsets, strict=False):
                weight.set_address(start + offset)

        def fill(address: int) -> None:
            set_addresses(address)
            self._pack()

        mapping = shared.file.map(offsets[-1], _key(shared, self._weights), fill)
        if isinstance(mapping, str):
            self.note = f"not shared: {mapping}"
            return False
        set_addresses(mapping.address)
        self._mapping = mapping
        self.note = "shared, packed before" if mapping.was_filled else "shared"
        return True

    def _allocate_chunks(self) -> None:
        """Allocate few large chunks: one for each weight would waste half a huge page on each."""
        address = end = 0
        for weight in self._weights:
            size = _align(weight.num_bytes)
            if address + size > end:
                chunk_size = max(size, _CHUNK_BYTES)
                address = self._allocate(chunk_size)
                end = address + chunk_size
            weight.set_address(address)
            address += size

    def _allocate(self, num_bytes: int) -> int:
        library = require_kernels()
        address = library.allocate(num_bytes)
        if not address:
            raise MemoryError("no memory for the weights")
        weakref.finalize(self, library.free, address, num_bytes)
        return address

    def _pack(self) -> None:
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(lambda weight: weight.pack(), self._weights):
                pass


def fingerprint_weights(model_path: Path) -> str:
    """Return a text that identifies a folder's weights by the stamps of its files."""
    files = sorted([*model_path.glob("*.safetensors"), model_path / "config.json"])
    with contextlib.suppress(GGUFFilesError):
        if reference := read_reference(model_path):
            files += [Path(stamp.path) for stamp in reference[0]]
    return repr([(str(file.resolve()), *_file_stamp(file)) for file in files])


def _file_stamp(file: Path) -> tuple[int, ...]:
    try:
        info = file.stat()
    except OSError:
        return ()
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def _key(shared: SharedWeights, weights: Sequence[PackedWeight | PackedExperts]) -> str:
    """Return a text of everything that the packed bytes depend on."""
    build = require_kernels().build
    plans = [weight.plan for weight in weights]
    return repr((_LAYOUT_VERSION, torch.__version__, build, shared.fingerprint, plans))


def _align(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
