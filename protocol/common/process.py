"""The first steps of every process of the pool: end with its parent, log in one format."""

import ctypes
import logging
import os
import signal
import sys

from headrace.protocol.log_options import LogOptions
from headrace.protocol.logs.set_up import set_up_logging
from headrace.protocol.logs.standard_streams import make_streams_safe

PR_SET_PDEATHSIG = 1

# sysexits.h: the configuration cannot work (a model that cannot be run, say), and another start
# would fail alike.
EX_CONFIG = 78


def become_child(name: str, parent_pid: int | None, log: LogOptions) -> None:
    """Name this process in its log and have the kernel kill it when its parent ends.

    parent_pid: the process that started it. If it has another parent by now, it exits at once: the
        parent ended before the kernel knew. None: systemd, which stops its processes itself.
    """
    make_streams_safe()
    try:
        set_up_logging(name, log)
    except ValueError as error:  # its file may be on a disk that is full by now
        set_up_logging(name, log.model_copy(update={"log_config": None}))
        logging.getLogger("headrace").error("the log cannot be configured: %s", error)
    if parent_pid is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(1)
