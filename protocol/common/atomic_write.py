"""Write files and folders that appear whole or not at all, whenever their writer is killed.

Each is made under another name in the same folder and renamed. Readers need no lock; writers of
one path must exclude each other. Nothing is flushed to the disk (fsync): these files belong to a
running pool, or can be made again.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content. Raises OSError, and leaves the old content, if it cannot."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path at which to make a file or link that then replaces the one at `path`.

    If the body raises, `path` is left as it was.
    """
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)  # of a writer that was killed
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty folder that then replaces the one at `path`.

    If the body raises, `path` is left as it was. A folder cannot be replaced at once: readers may
    find none for a moment.
    """
    for left in path.parent.glob(f"{path.name}.*.tmp"):  # of writers that were killed
        shutil.rmtree(left)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
