"""Restarts frontends and the coordinator. Restarts of workers are ordered by the coordinator."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from headrace.launcher.children import Child, slot_of
from headrace.protocol.common.process_registry import Role
from headrace.protocol.common.restart_backoff import RestartBackoff

log = logging.getLogger("headrace.launcher")

# How often to retry what the system refuses to start, and how often while requests wait for it.
RETRY_S = 30.0
STOPPING_RETRY_S = 0.5


class Restarter:
    """The restarts of the processes that the launcher restarts on its own.

    start: starts a process by role and slot; raises OSError if the system refuses it.
    is_over: whether no more processes of a role are needed.
    stop: set when the pool must end.
    failed_slots: those whose last start the system refused.
    """

    def __init__(
        self,
        start: Callable[[Role, str], Awaitable[None]],
        is_over: Callable[[Role], bool],
        stop: asyncio.Event,
    ) -> None:
        self._start, self._is_over, self._stop = start, is_over, stop
        self._restarts: dict[str, RestartBackoff] = {}
        self.failed_slots: set[str] = set()

    def new_id(self, slot: str) -> str:
        """Return a new process id for the next start in a slot."""
        restarts = self._restarts_of(slot)
        process_id = restarts.next_id()
        restarts.note_start(process_id)
        return process_id

    def is_replaced(self, process_id: str) -> bool:
        """Return whether another process has been started in this one's slot since."""
        slot = slot_of(process_id)
        return slot != "" and self._restarts_of(slot).last_id != process_id

    async def restart(self, child: Child, exit_status: int, may_give_up: bool) -> bool:
        """Fill the slot of a child that has exited unasked, at once or after a delay.

        Returns false if the slot has failed repeatedly and `may_give_up` is true.
        """
        slot = slot_of(child.process_id) or child.process_id
        restarts = self._restarts_of(slot)
        delay_s = restarts.failed(f"exit code {exit_status}", time.monotonic(), hopeless=False)
        if restarts.problem and may_give_up:
            log.error("%s cannot be started", slot)
            return False
        log.error(
            "%s exited with status %d; restarting in %.1f s", child.process_id, exit_status, delay_s
        )
        if restarts.problem:
            log.error("%s", restarts.problem)
        await asyncio.sleep(delay_s)
        restarts.ready(time.monotonic())
        await self.start_until_running(child.role, slot)
        return True

    async def start_until_running(self, role: Role, slot: str) -> None:
        """Retry a start until it works, or until the process is no longer needed."""
        while not self._is_over(role):
            try:
                await self._start(role, slot)
            except OSError as error:
                log.error("%s cannot be started: %s", slot, error)
                self.failed_slots.add(slot)
            else:
                self.failed_slots.discard(slot)
                return
            await self._wait_for_retry()

    async def _wait_for_retry(self) -> None:
        """Wait; not as long once the pool is stopping, while requests wait to be finished."""
        if self._stop.is_set():
            await asyncio.sleep(STOPPING_RETRY_S)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await self._stop.wait()

    def _restarts_of(self, slot: str) -> RestartBackoff:
        return self._restarts.setdefault(slot, RestartBackoff(slot))
