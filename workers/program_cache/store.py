"""A folder of programs, one file for each key.

Files appear whole or not at all, and only files that no other user may write are read: what is in
them is executed by kernels, which check nothing. Starts at once may write the same file: the last
one stays, and they are alike.
"""

import contextlib
import os
import stat
import tempfile
import time
from pathlib import Path

_SUFFIX = ".safetensors"
_MOST_FILES = 32
_MOST_BYTES = 256 * 1024 * 1024  # of one file
_PART_PREFIX = "part-"
_PART_S = 3600.0  # after which a part is taken for one of a writer that was killed


class ProgramStore:
    """The programs in a folder, which may not exist, or not be writable."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, key: str) -> bool:
        """Return whether there is a file of a key."""
        return self._path(key).exists()

    def load(self, key: str) -> bytes | None:
        """Return the file of a key; None if there is none that may be read.

        Raises OSError if it cannot be read.
        """
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as stream:
            _check_owner(os.fstat(fd), path)
            data = stream.read()
        with contextlib.suppress(OSError):  # a folder that can only be read
            os.utime(path)  # for `_remove_oldest`
        return data

    def save(self, key: str, data: bytes) -> None:
        """Write the file of a key. Raises OSError if that fails; no part is left then."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, part = tempfile.mkstemp(prefix=_PART_PREFIX, dir=self._folder)  # mode 0600
        try:
            with open(fd, "wb") as stream:
                stream.write(data)
            os.replace(part, self._path(key))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        self._remove_oldest()

    def remove(self, key: str) -> None:
        """Remove the file of a key, if there is one that can be removed."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _remove_oldest(self) -> None:
        """Keep the files that were used last, and no parts of writers that were killed."""
        with contextlib.suppress(OSError):
            for part in self._folder.glob(f"{_PART_PREFIX}*"):
                if time.time() - part.stat().st_mtime > _PART_S:
                    part.unlink()
        used: list[tuple[int, Path]] = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                used.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(used)[:-_MOST_FILES]:
            with contextlib.suppress(OSError):
                path.unlink()


def _check_owner(info: os.stat_result, path: Path) -> None:
    """Raises OSError unless it is a file of this user (or root) which only the owner may write."""
    if not stat.S_ISREG(info.st_mode) or info.st_size > _MOST_BYTES:
        raise OSError(f"{path} is no file of a program")
    if info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
        raise OSError(f"{path} may be written by others")
