"""A cache of prepared files on disk: each entry is made once, whole or not at all.

An entry is a folder. It is built under another name and renamed when complete, under a lock, so
that a preparation that is interrupted, or that runs twice at once, leaves nothing half made. A
manifest lists the entry's files and sizes; an entry that does not match it is made anew.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from headrace.launcher.models.model_folder import ModelError
from headrace.protocol.common.atomic_write import replacing_folder
from headrace.protocol.common.file_lock import FileLock, LockHeld
from headrace.protocol.common.host.cache_folder import cache_folder
from headrace.protocol.common.host.umask import users_umask

MANIFEST = "headrace.json"
WHOLE_DIGEST_BYTES = 512 * 1024 * 1024
SAMPLE_BYTES = 4 * 1024 * 1024

Progress = Callable[[str], None]


def default_cache_dir() -> Path:
    """Return $HEADRACE_CACHE, else headrace/ in $XDG_CACHE_HOME, else in ~/.cache.

    Raises ModelError if none of them is set, and the user has no home folder.
    """
    folder = cache_folder()
    if folder is None:
        raise ModelError(
            "there is no home folder: HEADRACE_CACHE must say where prepared models are kept"
        )
    return folder


def cached(entry: Path, build: Callable[[Path], None], progress: Progress) -> Path:
    """Return the folder `entry`, made by `build(empty_folder)` unless it is there and complete.

    progress: called with a line when another process is building the same entry.

    Raises ModelError if the cache cannot be written, and the exceptions of `build`.
    """
    if _is_complete(entry):
        return entry
    try:
        with users_umask():
            entry.parent.mkdir(parents=True, exist_ok=True)
        with users_umask(), _lock(entry.with_name(entry.name + ".lock"), progress):
            if not _is_complete(entry):
                _build(entry, build)
    except OSError as error:
        raise ModelError(f"cache folder {entry.parent}: {error.strerror or error}") from error
    return entry


def file_digest(file: Path) -> str:
    """Return a digest of a model file's name and content, in hex.

    Small files are read whole. Of a large one, only head and tail are read, and its modification
    time is included: reading tens of gigabytes at each start would take minutes.
    """
    status = file.stat()
    digest = hashlib.sha256(f"{file.name} {status.st_size}".encode())
    with file.open("rb") as stream:
        if status.st_size <= WHOLE_DIGEST_BYTES:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            digest.update(str(status.st_mtime_ns).encode())
            digest.update(stream.read(SAMPLE_BYTES))
            stream.seek(-SAMPLE_BYTES, os.SEEK_END)
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def joint_digest(parts: Iterable[str]) -> str:
    """Return one short digest of several strings, in hex."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _build(entry: Path, build: Callable[[Path], None]) -> None:
    with replacing_folder(entry) as folder:
        build(folder)
        (folder / MANIFEST).write_text(json.dumps(_sizes(folder)))


def _is_complete(entry: Path) -> bool:
    try:
        manifest = json.loads((entry / MANIFEST).read_text())
        return bool(manifest) and manifest == _sizes(entry)
    except (OSError, ValueError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and file.name != MANIFEST
    }


def _lock(file: Path, progress: Progress) -> FileLock:
    """Acquire a lock, with a line of progress if that takes a while."""
    try:
        return FileLock(file, blocking=False)
    except LockHeld:
        progress(f"waiting for another process that prepares {file.stem}")
        return FileLock(file)
