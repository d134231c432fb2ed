"""What systemd is told of a frontend."""

import asyncio

from headrace.frontend.pool.client import PoolClient
from headrace.frontend.process.listener import SharedLoop
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.state import READY, PoolState

STATUS_S = 1.0
# How often to look whether all is ready.
START_POLL_S = 0.05


async def report(notifier: Notifier, loop: SharedLoop, pool: PoolClient) -> None:
    """Ready when connections are accepted and the pool is known; alive while the event loop
    turns, since this runs on it. Ends at once if nobody asked."""
    if not notifier.is_heard:
        return
    notifier.status("waiting for the coordinator")
    beat_s = min(STATUS_S, (notifier.beat_s or STATUS_S) / 2)
    is_ready = False
    while True:
        if loop.is_listening and pool.state is not None:
            tell = notifier.status if is_ready else notifier.ready
            tell(_describe(pool.state, pool.in_flight))
            is_ready = True
        notifier.alive()
        await asyncio.sleep(beat_s if is_ready else START_POLL_S)


def _describe(state: PoolState, in_flight: int) -> str:
    ready = sum(worker.state == READY for worker in state.workers)
    return f"{in_flight} requests in flight, {ready} workers ready"
