"""The run directory of a pool with a launcher: made at the start, removed at the end. Directories
that killed launchers have left are reused or removed.

A directory that the operator names holds a file that the launcher keeps locked. The kernel drops
the lock with the process, however it ends, so that the next start can tell a directory that was
left behind from one in use, and from folders that are not a launcher's.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from headrace.launcher.command.options import OptionError
from headrace.protocol import sockets
from headrace.protocol.common.file_lock import FileLock, LockHeld
from headrace.protocol.common.run_files import LAUNCHER_LOCK


def make_run_dir(chosen: Path | None) -> Path:
    """Make a directory for this pool alone, which only its owner may enter.

    chosen: by the operator; None: a new temporary one.

    Raises OptionError if the directory cannot be made, or is in use.
    """
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
    """Make a directory, or empty one that a killed launcher has left.

    Raises FileExistsError if another launcher uses it, or if it is not a launcher's.
    """
    try:
        folder.mkdir(mode=0o700, parents=True)
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


def _may_be_left_behind(folder: Path) -> bool:
    """Return whether a directory looks like one of a launcher that was killed, at any moment."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return False
    return (folder / LAUNCHER_LOCK).is_file() or not any(folder.iterdir())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _parent() -> Path:
    """Return the first writable folder for run directories whose path leaves room for sockets."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        fits = folder and sockets.fits(Path(folder) / "headrace-1234567-12345678")
        if folder and fits and os.access(folder, os.W_OK):
            return Path(folder)
    raise OptionError("--run-dir: no temporary folder is writable; give one")


def _remove_left_behind(parent: Path) -> None:
    """Remove the run directories of launchers that were killed; their names hold their pids."""
    for folder in parent.glob("headrace-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
