"""The first steps of every process of the pool: end with its parent, log in one format."""

import ctypes
import logging
import os
import signal
import sys

from headrace.protocol.common.standard_streams import make_streams_safe

PR_SET_PDEATHSIG = 1

# sysexits.h: the configuration cannot work (a model that cannot be run, say), and another start
# would fail alike.
EX_CONFIG = 78

ROOT_LOGGER = "headrace"
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(processName)-14s %(message)s"


def become_child(name: str, parent_pid: int | None, log_level: str) -> None:
    """Name this process in its log and have the kernel kill it when its parent ends.

    parent_pid: the process that started it. If it has another parent by now, it exits at once: the
        parent ended before the kernel knew. None: systemd, which stops its processes itself.
    """
    make_streams_safe()
    set_up_logging(name, log_level)
    if parent_pid is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(1)


def set_up_logging(name: str, log_level: str) -> None:
    """Log one line per record on standard error, with the process's name.

    All loggers of Headrace are below "headrace", and have their level from it. Records of libraries
    go the same way, by the level of the root.
    """
    logging.getLogger(ROOT_LOGGER).setLevel(log_level.upper())
    logging.basicConfig(
        level=log_level.upper(),
        format=LOG_FORMAT.replace("%(processName)-14s", f"{name:14s}"),
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,  # a worker that was forked has the handlers of its fork server
    )
