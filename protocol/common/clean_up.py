"""What a process leaves in the run directory when it ends."""

import logging

from headrace.protocol import sockets
from headrace.protocol.common import metric_files
from headrace.protocol.common.process_registry import Member
from headrace.protocol.config import PoolConfig

log = logging.getLogger(__name__)


def clean_up_after(config: PoolConfig, member: Member) -> None:
    """Remove the socket and the metrics' files of a process that has ended."""
    try:
        metric_files.forget(config.metrics_dir, member.pid)
    except OSError as error:  # its numbers stay where they are, and count
        log.warning("the metrics of %s cannot be added up: %s", member.process_id, error)
    sockets.remove(sockets.requests_endpoint(config.run_dir, member.process_id))
