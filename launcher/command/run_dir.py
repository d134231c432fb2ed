"""The run directory of a pool with a launcher: made at the start, removed at the end. Directories
that killed launchers have left are reused or removed.

It holds a file that the launcher keeps locked. The kernel drops the lock with the process, however
it ends, so that the next start can tell a directory that was left behind from one in use, and from
folders that are not a launcher's. A pid would not tell: containers that share a folder may count
their processes apart.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path

from headrace.launcher.command.options import OptionError
from headrace.protocol import sockets
from headrace.protocol.common.file_lock import FileLock, LockHeld
from headrace.protocol.common.run_files import LAUNCHER_LOCK

# Each retry needs another start at the same moment.
_TRIES = 100


def make_run_dir(chosen: Path | None, groups: Collection[str] = ()) -> Path:
    """Make a directory for this pool alone, which only its owner may enter.

    chosen: by the operator; None: a new temporary one. groups: names of the pool's groups, whose
        sockets must fit.

    Raises OptionError if the directory cannot be made, or is in use.
    """
    if chosen is None:
        return _make_temporary(groups)
    check_length(chosen.absolute(), groups)
    try:
        _claim(chosen)
    except FileExistsError as error:
        raise OptionError(f"--run-dir: {chosen} exists already{_why(chosen)}") from error
    except OSError as error:
        raise OptionError(f"--run-dir: {error.strerror}") from error
    return chosen.absolute()


def ensure_temporary_folder(run_dir: Path) -> None:
    """Where no temporary folder can be written, as in a container with a read-only root, have this
    process and its children use one in the run directory."""
    if _temporary_folder() is None:
        folder = run_dir / "tmp"
        folder.mkdir(mode=0o700)
        os.environ["TMPDIR"] = str(folder)


def check_length(run_dir: Path, groups: Collection[str]) -> None:
    """Raise OptionError if a path is too long for the sockets of a pool."""
    excess = sockets.excess_bytes(run_dir, groups)
    if excess:
        names = f" of group {max(groups, key=len)!r}" if groups else ""
        raise OptionError(
            f"--run-dir: {excess} bytes too long: paths of sockets{names} may have "
            f"{sockets.MAX_PATH_BYTES} bytes"
        )


def _make_temporary(groups: Collection[str]) -> Path:
    parent = _parent(groups)
    _remove_left_behind(parent)
    for _ in range(_TRIES):
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"headrace-{os.getpid()}-", dir=parent))
            FileLock(folder / LAUNCHER_LOCK, blocking=False)  # for as long as this process lives
        except (LockHeld, FileNotFoundError):
            continue  # another start has removed it while it was empty
        except OSError as error:
            raise OptionError(f"--run-dir: {parent}: {error.strerror}") from error
        return folder
    raise OptionError(f"--run-dir: {parent}: what is made there vanishes")


def _claim(folder: Path) -> None:
    """Make a directory, or empty one that a killed launcher has left.

    Raises FileExistsError if another launcher uses it, or if it is not a launcher's.
    """
    try:
        _make_private(folder)
    except FileExistsError:
        if not _may_be_left_behind(folder):
            raise
    try:
        FileLock(folder / LAUNCHER_LOCK, blocking=False)  # held for as long as this process lives
    except LockHeld as error:
        raise FileExistsError from error
    for left in folder.iterdir():
        if left.name != LAUNCHER_LOCK:
            _remove(left)


def _make_private(folder: Path) -> None:
    """Make a directory and its parents for this user alone: others could replace what is there."""
    before = os.umask(0o077)
    try:
        folder.mkdir(mode=0o700, parents=True)
    finally:
        os.umask(before)


def _may_be_left_behind(folder: Path) -> bool:
    """Return whether a directory looks like one of a launcher that was killed, at any moment."""
    if why_unsafe(folder) is not None:
        return False
    return (folder / LAUNCHER_LOCK).is_file() or not any(folder.iterdir())


def _why(folder: Path) -> str:
    """Return what is wrong with a directory, for an error; "" if it merely is another's."""
    try:
        return "" if (reason := why_unsafe(folder)) is None else f", and {reason}"
    except OSError:
        return ""


def why_unsafe(folder: Path) -> str | None:
    """Return why a directory must not be a run directory; None if only its owner can enter it.

    Raises OSError if there is none.
    """
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_mode & 0o077:
        return "is open to other users: its mode must be 700"
    return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _parent(groups: Collection[str]) -> Path:
    """Return the first writable folder for run directories whose path leaves room for sockets."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), _temporary_folder(), "/tmp"):
        if folder and os.access(folder, os.W_OK | os.X_OK):
            name = Path(folder) / "headrace-1234567-12345678"
            if not sockets.excess_bytes(name, groups):
                return Path(folder)
    raise OptionError("--run-dir: no temporary folder is writable; give one")


def _temporary_folder() -> str | None:
    with contextlib.suppress(FileNotFoundError):  # none can be written
        return tempfile.gettempdir()
    return None


def _remove_left_behind(parent: Path) -> None:
    """Remove the run directories of launchers that were killed: those whose lock nobody holds."""
    for folder in parent.glob("headrace-*-*"):
        with contextlib.suppress(OSError):  # in use, or not ours
            if not _may_be_left_behind(folder):
                continue
            if not (folder / LAUNCHER_LOCK).is_file():
                folder.rmdir()  # empty: a start that finds its own gone makes another
                continue
            with FileLock(folder / LAUNCHER_LOCK, blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
