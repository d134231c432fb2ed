"""Memory files in which the workers of a group share packed weights.

The launcher makes them and only keeps them open; workers open them as files of its process and fill
them (see workers/native/shared_file.py). A file ends with the last process that has it open, so
nothing is left of a pool, however it ends.
"""

import contextlib
import logging
import os
from pathlib import Path

from headrace.protocol.common.shared_weights import empty_unless_used, memory_file_name
from headrace.protocol.config import GroupConfig

log = logging.getLogger("headrace.launcher")


class SharedWeightFiles:
    """A file for each group that computes on CPUs, made when its first worker starts."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}  # by group

    def path(self, group: GroupConfig) -> Path | None:
        """Return the path of a group's file for child processes; None if the group has none."""
        if not group.engine.runs_model or group.engine.device == "cuda":
            return None
        if group.name not in self._fds:
            try:
                self._fds[group.name] = os.memfd_create(memory_file_name(group.name))
            except OSError as error:
                log.warning("%s: weights are not shared: %s", group.name, error.strerror)
                return None
        return Path(f"/proc/{os.getpid()}/fd/{self._fds[group.name]}")

    def empty_unused(self) -> None:
        """Give back the memory of files that no worker uses.

        A worker that exits cannot do that itself: its engine may still compute.
        """
        for fd in self._fds.values():
            with contextlib.suppress(OSError):  # no such locks here: nothing is shared, either
                empty_unless_used(fd)

    def renew(self) -> None:
        """Use other files for workers that start from now on; the others keep the old ones."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
