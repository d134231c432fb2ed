"""A rolling restart: every worker and every frontend is replaced, one at a time, under load.

Where memory allows, a worker's successor starts first, and the worker leaves when that is ready.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import msgspec

from headrace.launcher.children import slot_of
from headrace.launcher.reload_conditions import (
    group_of,
    has_problem,
    has_successor,
    is_wanted,
    is_whole,
    serves,
)
from headrace.protocol.common.process import EX_CONFIG
from headrace.protocol.state import (
    RELOAD_DONE,
    RELOAD_DRAINING,
    RELOAD_FAILED,
    RELOAD_FRONTENDS,
    RELOAD_REPLACING,
    RELOAD_STARTING,
    PoolState,
    ReloadPhase,
    ReloadState,
)

log = logging.getLogger("headrace.launcher")

POLL_S = 0.1
# How often the coordinator is told again which successor is awaited: it may be another one.
REPORT_S = 1.0
# A worker that still runs so long after its time to drain is killed.
LATE_S = 5.0
# How long to wait for workers that a group lacks for another reason, before one more is drained.
WHOLE_S = 60.0
# Until a frontend has read its tokenizers and the coordinator knows it.
FRONTEND_START_S = 60.0
# So many successors may fail, one after the other, beside a worker that serves.
MAX_FAILURES = 3


class RollingFailed(Exception):
    """A successor did not become ready, or other workers are missing: the rest is not replaced."""


@dataclass(frozen=True)
class RollingHooks:
    """The actions of the launcher in a rolling restart.

    renew: make later starts use what has changed on disk.
    is_running: whether a process runs.
    pool_state: the last published state.
    workers: the ids of the workers that run or start.
    report: have the coordinator publish how far the restart is. While it is "starting", the
        coordinator orders a worker beside the old one.
    why_not_beside: why no successor can run beside a worker; "" if it can.
    drain_worker: have a worker finish its requests and exit; the coordinator fills its slot again.
    kill_worker: kill a worker.
    replace_frontend: start another frontend in a frontend's slot, and return its id.
    retire_frontend: have a frontend leave new connections to the others, finish, and exit.
    """

    renew: Callable[[], Awaitable[None]]
    is_running: Callable[[str], bool]
    pool_state: Callable[[], PoolState | None]
    workers: Callable[[], Iterable[str]]
    report: Callable[[ReloadState], Awaitable[None]]
    why_not_beside: Callable[[str], Awaitable[str]]
    drain_worker: Callable[[str], object]
    kill_worker: Callable[[str], object]
    replace_frontend: Callable[[str], Awaitable[str]]
    retire_frontend: Callable[[str], object]


class RollingRestarts:
    """Rolling restarts on request, one after another.

    workers, frontends: the ids of the running processes. drain_s, start_s: see `Roll`.
    """

    def __init__(
        self,
        hooks: RollingHooks,
        frontends: Callable[[], Iterable[str]],
        drain_s: float,
        start_s: float,
    ) -> None:
        self._hooks, self._timeouts = hooks, (drain_s, start_s)
        self._frontends = frontends
        self._requested = asyncio.Event()
        self._count = 0
        self._roll: Roll | None = None

    def request(self) -> None:
        """Request a rolling restart, which starts after the one in progress."""
        self._requested.set()

    def note_exit(self, worker_id: str, exit_status: int) -> None:
        """Note that a worker has ended, or could not be started."""
        if self._roll is not None:
            self._roll.exits[worker_id] = exit_status

    async def run(self) -> None:
        """Execute requests until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            self._count += 1
            log.info("rolling restart: workers, then frontends")
            roll = self._roll = Roll(self._hooks, self._count, *self._timeouts)
            try:
                await roll.run(self._hooks.workers(), self._frontends())
                log.info("rolling restart: done")
            except (RollingFailed, OSError) as error:
                log.error("rolling restart: aborted: %s", error)
                reason = str(error) if isinstance(error, RollingFailed) else "see the log"
                await roll.report_failure(reason)
            self._roll = None


class Roll:
    """One rolling restart.

    number: counts them. exits: statuses of workers that have ended meanwhile, by id.
    drain_s: time of a worker to finish its requests; those that are left then are migrated.
    start_s: time of a worker to become ready.
    """

    def __init__(self, hooks: RollingHooks, number: int, drain_s: float, start_s: float) -> None:
        self._hooks, self._drain_s, self._start_s = hooks, drain_s, start_s
        self._state = ReloadState(number, RELOAD_STARTING)
        self.exits: dict[str, int] = {}

    async def run(self, workers: Iterable[str], frontends: Iterable[str]) -> None:
        """Replace processes, given by their ids.

        Raises RollingFailed if a successor does not become ready.
        """
        olds, old_frontends = list(workers), list(frontends)
        await self.report(RELOAD_STARTING)
        await self._hooks.renew()
        for worker_id in olds:
            await self._replace_worker(worker_id)
        for frontend_id in old_frontends:
            await self.report(RELOAD_FRONTENDS, frontend_id)
            await _replace_frontend(frontend_id, self._hooks)
        await self.report(RELOAD_DONE)

    async def report(
        self, phase: ReloadPhase, old: str = "", new: str = "", reason: str = ""
    ) -> None:
        """Report a phase. old, new: the process that is replaced, and its successor."""
        self._state = ReloadState(self._state.number, phase, slot_of(old), old, new, reason)
        await self._hooks.report(self._state)

    async def report_failure(self, reason: str) -> None:
        """Report that the rest is not replaced."""
        self._state = msgspec.structs.replace(self._state, phase=RELOAD_FAILED, reason=reason)
        await self._hooks.report(self._state)

    async def _replace_worker(self, worker_id: str) -> None:
        hooks, group = self._hooks, group_of(worker_id)
        if not hooks.is_running(worker_id):
            return  # it has exited by itself: its successor is new
        if not await _wait_until(lambda: is_whole(hooks.pool_state(), group), WHOLE_S):
            raise RollingFailed(f"{worker_id} is kept, since its group lacks workers already")
        if not hooks.is_running(worker_id):
            return
        reason = await hooks.why_not_beside(worker_id)
        if reason:
            log.info("%s leaves before its successor starts: %s", worker_id, reason)
            await self.report(RELOAD_REPLACING, worker_id, reason=reason)
            await self._drain(worker_id)
            await self._await_successor(worker_id)
            return
        successor = await self._start_beside(worker_id)
        if successor:
            await self.report(RELOAD_DRAINING, worker_id, successor)
            await self._drain(worker_id)

    async def _drain(self, worker_id: str) -> None:
        """Have a worker finish its requests, and wait for its end."""
        hooks, limit_s = self._hooks, self._drain_s + LATE_S
        hooks.drain_worker(worker_id)
        if not await _wait_until(lambda: not hooks.is_running(worker_id), limit_s):
            log.warning("%s did not stop within %.0f s: killed", worker_id, limit_s)
            hooks.kill_worker(worker_id)

    async def _await_successor(self, worker_id: str) -> None:
        hooks, group = self._hooks, group_of(worker_id)

        def is_decided() -> bool:
            state = hooks.pool_state()
            return has_successor(state, worker_id) or has_problem(state, group)

        await _wait_until(is_decided, self._start_s + LATE_S)
        if not has_successor(hooks.pool_state(), worker_id):
            raise RollingFailed(f"no worker became ready to replace {worker_id}")

    async def _start_beside(self, worker_id: str) -> str:
        """Have a successor started while a worker serves; return its id when it is ready.

        Returns "" if the pool has no such slot any more. Raises RollingFailed if none becomes
        ready; the old worker is kept.
        """
        hooks, slot = self._hooks, slot_of(worker_id)
        deadline, reported_at, successor = time.monotonic() + self._start_s + LATE_S, 0.0, ""
        while time.monotonic() < deadline:
            running = [each for each in hooks.workers() if slot_of(each) == slot]
            successor = next((each for each in running if each != worker_id), "")
            if successor and serves(hooks.pool_state(), successor):
                return successor
            if not is_wanted(hooks.pool_state(), slot):
                return ""
            failed = [
                status
                for each, status in self.exits.items()
                if slot_of(each) == slot and each != worker_id
            ]
            if EX_CONFIG in failed or len(failed) >= MAX_FAILURES:
                break
            if time.monotonic() - reported_at >= REPORT_S or successor != self._state.new:
                reported_at = time.monotonic()
                await self.report(RELOAD_STARTING, worker_id, successor)
            await asyncio.sleep(POLL_S)
        hooks.kill_worker(successor)
        kept = f"; {worker_id} is kept" if hooks.is_running(worker_id) else ""
        raise RollingFailed(f"no worker became ready to replace {worker_id}{kept}")


async def _replace_frontend(frontend_id: str, hooks: RollingHooks) -> None:
    if not hooks.is_running(frontend_id):
        return
    successor = await hooks.replace_frontend(frontend_id)

    def is_known() -> bool:
        state = hooks.pool_state()
        return state is not None and any(each.frontend_id == successor for each in state.frontends)

    if not await _wait_until(is_known, FRONTEND_START_S):
        raise RollingFailed(f"{successor} did not become ready to replace {frontend_id}")
    hooks.retire_frontend(frontend_id)


async def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition; return whether it holds in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True
