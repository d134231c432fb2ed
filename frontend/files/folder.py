"""Keep the bytes of files in a folder, under names that the server has made.

    volume              the folder's own id: stores may be shared by pools that have other folders
    files/ID            complete files; each was flushed to the disk before it got its name
    uploads/NAME        files that are being written, a digest of the tenant first; those of killed
                        processes are removed
    batches/ID/input    a link to the input of a running batch, which its file's end leaves alone
    batches/ID/000001   the results of its first run (see frontend/batches/journal.py)

No name comes from a client: ids are checked before they become a path.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

_ID = re.compile(r"(?:file|batch)[-_][0-9a-f]{32}")
# Nothing writes to a file for so long without being dead.
ABANDONED_S = 3600.0


def new_file_id() -> str:
    """Return a new id of a file."""
    return f"file-{secrets.token_hex(16)}"


def derived_file_id(batch_id: str, kind: str) -> str:
    """Return the id of a file that a batch makes: the same each time that it is made."""
    return f"file-{hashlib.blake2b(f'{batch_id} {kind}'.encode(), digest_size=16).hexdigest()}"


def is_safe_id(text: str) -> bool:
    """Return whether a text has the form of an id of this server, so that a path may hold it."""
    return _ID.fullmatch(text) is not None


class FileFolder:
    """The folder with the bytes of all files."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if it is missing. Raises OSError if that is impossible."""
        self._folder = folder
        for part in (folder, *(folder / name for name in ("files", "uploads", "batches"))):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.volume = _volume(folder / "volume")

    def path(self, file_id: str) -> Path:
        """Return the path of a file. Raises ValueError if the id is not one of this server's."""
        if not is_safe_id(file_id):
            raise ValueError("not an id of a file")
        return self._folder / "files" / file_id

    def batch_path(self, batch_id: str) -> Path:
        """Return the folder of a running batch. Raises ValueError for an id of another form."""
        if not is_safe_id(batch_id):
            raise ValueError("not an id of a batch")
        return self._folder / "batches" / batch_id

    def new_upload(self, tenant: str) -> Path:
        """Return the path of a new file that is not complete yet."""
        return self._folder / "uploads" / f"{_digest(tenant)}-{secrets.token_hex(16)}"

    def publish(self, upload: Path, file_id: str) -> int:
        """Give a complete file its name, after its bytes are on the disk; return its size."""
        descriptor = os.open(upload, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        target = self.path(file_id)
        os.replace(upload, target)
        flush_folder(target.parent)
        return size

    def remove(self, file_id: str) -> None:
        """Remove a file, if it is there."""
        self.path(file_id).unlink(missing_ok=True)

    def start_batch(self, batch_id: str, input_id: str) -> None:
        """Make the folder of a batch, with its input. Raises FileNotFoundError without a file."""
        folder = self.batch_path(batch_id)
        folder.mkdir(mode=0o700)
        os.link(self.path(input_id), folder / "input")
        flush_folder(folder)
        flush_folder(folder.parent)

    def remove_batch(self, batch_id: str) -> None:
        """Remove the results of a batch that has ended."""
        shutil.rmtree(self.batch_path(batch_id), ignore_errors=True)

    def upload_bytes(self, tenant: str) -> int:
        """Return the size of a tenant's files that are being written."""
        uploads = self._folder / "uploads"
        return sum(_size(path) for path in uploads.glob(f"{_digest(tenant)}-*"))

    def old_ids(self) -> list[str]:
        """Return the ids of files that are older than any that is about to get its row."""
        return [path.name for path in self._old(self._folder / "files") if is_safe_id(path.name)]

    def old_batches(self) -> list[str]:
        """Return the ids of folders of batches that nothing has written to for some time."""
        return [path.name for path in self._old(self._folder / "batches") if is_safe_id(path.name)]

    def remove_old_uploads(self) -> None:
        """Remove files that nothing writes any more."""
        for path in self._old(self._folder / "uploads"):
            path.unlink(missing_ok=True)

    def _old(self, folder: Path) -> Iterable[Path]:
        oldest = time.time() - ABANDONED_S
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    yield path


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk. Blocks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _volume(path: Path) -> str:
    """Return the id of the folder; the first process that comes chooses it."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()  # needs no space on the disk
    made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        made.write_text(secrets.token_hex(16))
        with contextlib.suppress(FileExistsError):
            os.link(made, path)  # whole or not at all, and never over another's
    finally:
        made.unlink(missing_ok=True)
    return path.read_text()


def _digest(tenant: str) -> str:
    return hashlib.blake2b(tenant.encode(), digest_size=8).hexdigest()


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
