"""The run directory of a pool with a launcher: made at the start, removed at the end, and what
killed launchers have left is taken over or removed.

A directory that the operator names holds a file that the launcher keeps locked. The kernel drops
the lock with the process, however it ends, so that the next start knows what is left behind from
what is in use and from folders that were never ours.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from headrace.launcher.command.options import OptionError
from headrace.protocol import sockets
from headrace.protocol.common.file_lock import FileLock, LockHeld

LOCK = "launcher.lock"


def make_run_dir(chosen: Path | None) -> Path:
    """A directory for this pool alone, which only its owner may enter. OptionError if it cannot be
    had."""
    if chosen is None:
        parent = _parent()
        _remove_left_behind(parent)
        return Path(tempfile.mkdtemp(prefix=f"headrace-{os.getpid()}-", dir=parent))
    if not sockets.fits(chosen.absolute()):
        raise OptionError("--run-dir: too long for the paths of sockets")
    try:
        _claim(chosen)
    except FileExistsError as error:
        raise OptionError(f"--run-dir: {chosen} exists already") from error
    except OSError as error:
        raise OptionError(f"--run-dir: {error.strerror}") from error
    return chosen.absolute()


def _claim(folder: Path) -> None:
    """Make a directory, or empty one that a killed launcher has left. FileExistsError if another
    uses it, or if it is something else."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not _may_be_left_behind(folder):
            raise
    try:
        FileLock(folder / LOCK, blocking=False)  # held for as long as this process lives
    except LockHeld as error:
        raise FileExistsError from error
    for left in folder.iterdir():
        if left.name != LOCK:
            _remove(left)


def _may_be_left_behind(folder: Path) -> bool:
    """Whether it looks as a launcher leaves it that is killed at whatever moment."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return False
    return (folder / LOCK).is_file() or not any(folder.iterdir())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _parent() -> Path:
    """Where run directories are made: the first place that can be written to and whose path
    leaves room for sockets."""
    for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        fits = place and sockets.fits(Path(place) / "headrace-1234567-12345678")
        if place and fits and os.access(place, os.W_OK):
            return Path(place)
    raise OptionError("--run-dir: no temporary folder can be written to; name one")


def _remove_left_behind(parent: Path) -> None:
    """Remove the run directories of launchers that were killed; their names hold their pids."""
    for folder in parent.glob("headrace-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
