"""File systems of their own for tests of full disks."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def small_tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """Mount a tmpfs of `size` bytes at a folder; skip the test if that is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=700".encode()
    if _libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options):
        pytest.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        _libc.umount2(str(folder).encode(), 2)  # MNT_DETACH


def fill(folder: Path, name: str = "filler") -> Path:
    """Use all space of a file system; return the file that does."""
    filler = folder / name
    with filler.open("ab", buffering=0) as file:
        for piece in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                continue
    return filler
