"""Restarts what is the launcher's to restart: frontends and the coordinator. Workers are ordered by
the coordinator."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from headrace.launcher.children import Child
from headrace.protocol.common.restarts import Restarts

log = logging.getLogger("launcher")

# How often to try again what the system refuses to start, and how often while requests wait for it.
RETRY_S = 30.0
STOPPING_RETRY_S = 0.5


class Restarter:
    """start: fills a place (role, place); OSError if the system will not have it. is_over: whether
    a role is needed no more. stop: set when the pool is to end.

    refused: the places that the system would not have filled when it was asked last.
    """

    def __init__(
        self,
        start: Callable[[str, str], Awaitable[None]],
        is_over: Callable[[str], bool],
        stop: asyncio.Event,
    ) -> None:
        self._start, self._is_over, self._stop = start, is_over, stop
        self._restarts: dict[str, Restarts] = {}
        self.refused: set[str] = set()

    def new_id(self, place: str) -> str:
        """For the next start in a place; none is given twice."""
        restarts = self._of(place)
        process_id = restarts.next_id()
        restarts.saw(process_id)
        return process_id

    def is_replaced(self, process_id: str) -> bool:
        """Whether another process has been started in this one's place since."""
        place = process_id.rpartition(".")[0]
        return place != "" and self._of(place).last_id != process_id

    async def restart(self, child: Child, exit_code: int, may_give_up: bool) -> bool:
        """A child has ended unasked: start another in its place, at once or later. False, where it
        may be given up, if it has failed again and again."""
        place = child.process_id.rpartition(".")[0] or child.process_id
        restarts = self._of(place)
        delay_s = restarts.failed(f"exit code {exit_code}", time.monotonic(), hopeless=False)
        if restarts.problem and may_give_up:
            log.error("%s cannot be started", place)
            return False
        log.error("%s ended (%d); restart in %.1f s", child.process_id, exit_code, delay_s)
        if restarts.problem:
            log.error("%s", restarts.problem)
        await asyncio.sleep(delay_s)
        restarts.ready(time.monotonic())
        await self.start_again(child.role, place)
        return True

    async def start_again(self, role: str, place: str) -> None:
        """Try until it works, or until nobody needs it."""
        while not self._is_over(role):
            try:
                await self._start(role, place)
            except OSError as error:
                log.error("%s cannot be started: %s", place, error)
                self.refused.add(place)
            else:
                self.refused.discard(place)
                return
            await self._wait_to_try_again()

    async def _wait_to_try_again(self) -> None:
        """Less long from the signal on that ends the pool: requests wait to be finished."""
        if self._stop.is_set():
            await asyncio.sleep(STOPPING_RETRY_S)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), RETRY_S)

    def _of(self, place: str) -> Restarts:
        return self._restarts.setdefault(place, Restarts(place))
