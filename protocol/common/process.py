"""What every process of the pool does first: die with its parent, log in one form."""

import ctypes
import logging
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

# sysexits.h: the process was given something that cannot work (a model it cannot run, say), and
# starting it again would not help.
EX_CONFIG = 78

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(processName)-14s %(message)s"


def become_child(name: str, parent_pid: int | None, log_level: str) -> None:
    """Name this process in its logs and have the kernel kill it when its parent dies.

    parent_pid: who started it. If that process is no longer its parent, it exits at once: the
    parent died before the kernel was told. None: systemd did, which needs no such help.
    """
    set_up_logging(name, log_level)
    if parent_pid is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(1)


def set_up_logging(name: str, log_level: str) -> None:
    """One line per record on standard error, with the process's name."""
    logging.basicConfig(
        level=log_level.upper(),
        format=LOG_FORMAT.replace("%(processName)-14s", f"{name:14s}"),
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,  # a worker that was forked takes over from its template
    )
