"""Remove what a process has left in the run directory."""

import contextlib
import logging

from headrace.protocol import sockets
from headrace.protocol.common.metrics import metric_files
from headrace.protocol.common.process_registry import RegisteredProcess
from headrace.protocol.config import PoolConfig

log = logging.getLogger("headrace.processes")


def remove_leftovers(config: PoolConfig, member: RegisteredProcess) -> None:
    """Remove the socket and the metrics' files of a process that has ended, as far as possible."""
    try:
        metric_files.forget(config.metrics_dir, member.pid)
    except OSError as error:  # its numbers stay in its own files, and count
        log.warning("cannot merge the metrics of %s: %s", member.process_id, error)
    # A socket that cannot be removed harms nobody: the next process has another id.
    with contextlib.suppress(OSError):
        sockets.remove(sockets.requests_endpoint(config.run_dir, member.process_id))
