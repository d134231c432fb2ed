"""Change the command line that other processes see."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_ARG_START, _ARG_END = 45, 46  # of /proc/PID/stat, counted from the state on


def show_command_line(arguments: Sequence[str]) -> None:
    """Overwrite the command line that ps and /proc show. It is cut to the length of the original
    one, or padded."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    room = end - start
    if start == 0 or room <= 0:  # the kernel does not say
        return
    shown = b"\0".join(map(os.fsencode, arguments))[: room - 1]
    ctypes.memmove(start, shown.ljust(room, b"\0"), room)
