"""Finds the launcher of a pool by its run directory, or checks that a process is one."""

import re
import sys
from pathlib import Path

from headrace.protocol.common.run_files import LAUNCHER_LOCK

_OWN_DIR = re.compile(r"headrace-(\d+)-")


def launcher_pid(given: str) -> int | None:
    """Return the pid of a launcher; None if there is none: SIGHUP may end other processes.

    given: a run directory or a pid.
    """
    pid = int(given) if given.isdecimal() else _pid_of(Path(given))
    return pid if pid is not None and _is_launcher(pid) else None


def _pid_of(run_dir: Path) -> int | None:
    """Return the pid in a name that a launcher has chosen, or else that of the lock's holder."""
    named = _OWN_DIR.match(run_dir.resolve().name)
    if named is not None:
        return int(named[1])
    try:
        inode = (run_dir / LAUNCHER_LOCK).stat().st_ino
    except OSError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and "->" not in fields and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None


def _is_launcher(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    is_headrace = any(
        Path(word).name == "headrace" or "headrace.launcher.command.cli" in word for word in words
    )
    return is_headrace and "serve" in words


def main() -> int:
    """Print the launcher's pid; return the exit status."""
    pid = launcher_pid(sys.argv[1])
    if pid is None:
        print(f"pool.sh: error: no launcher runs there: {sys.argv[1]}", file=sys.stderr)
        return 1
    print(pid)
    return 0


if __name__ == "__main__":
    sys.exit(main())
