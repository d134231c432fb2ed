"""Limits on the requests of all workers together, as limits of each."""

from typing import Any

from headrace.launcher.command.group_options import GroupOptions
from headrace.protocol.config import EngineConfig


def with_shares(engine: EngineConfig, group: GroupOptions, workers: int) -> EngineConfig:
    """Return a worker's options with its equal share of the limits that a group has as a whole.

    workers: their greatest number. Of a limit on requests, those that run are a part; the rest may
    wait. A limit of the worker itself takes precedence.
    """
    changes: dict[str, Any] = {}
    if group.max_num_queued_reqs is not None:
        share = max(1, group.max_num_queued_reqs // max(1, workers))
        changes["max_num_seqs"] = min(engine.max_num_seqs, share)
        if engine.max_queue_requests is None:
            changes["max_queue_requests"] = share - changes["max_num_seqs"]
    if group.max_num_queued_tokens is not None and engine.max_queue_tokens is None:
        changes["max_queue_tokens"] = max(1, group.max_num_queued_tokens // max(1, workers))
    return engine.model_copy(update=changes)
