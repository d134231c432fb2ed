"""Report a frontend's status to systemd."""

import asyncio

from headrace.frontend.pool.client import PoolClient
from headrace.frontend.process.listener import SharedLoop
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.state import READY, PoolState

STATUS_S = 1.0
# How often to check whether it is ready.
START_POLL_S = 0.05


async def report(notifier: Notifier, loop: SharedLoop, pool: PoolClient) -> None:
    """Report ready when connections are accepted and the pool state is known, and alive while the
    event loop, on which this runs, makes progress. Returns at once without systemd."""
    if not notifier.is_heard:
        return
    notifier.status("waiting for the coordinator")
    beat_s = min(STATUS_S, (notifier.beat_s or STATUS_S) / 2)
    is_ready = False
    while True:
        if loop.is_listening and pool.state is not None:
            notify = notifier.status if is_ready else notifier.ready
            notify(_describe(pool.state, pool.in_flight))
            is_ready = True
        notifier.alive()
        await asyncio.sleep(beat_s if is_ready else START_POLL_S)


def _describe(state: PoolState, in_flight: int) -> str:
    ready = sum(worker.state == READY for worker in state.workers)
    return f"{in_flight} requests in flight, {ready} workers ready"
