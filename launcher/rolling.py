"""A rolling restart: every worker and every frontend is replaced, one at a time, under load."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from headrace.launcher.children import slot_of
from headrace.protocol.state import SERVING, PoolState

log = logging.getLogger("headrace.launcher")

POLL_S = 0.1
# A worker that still runs so long after its time to drain is killed.
LATE_S = 5.0
# How long to wait for workers that a group lacks for another reason, before one more is drained.
WHOLE_S = 60.0
# Until a frontend has read its tokenizers and the coordinator knows it.
FRONTEND_START_S = 60.0


class RollingFailed(Exception):
    """A successor did not become ready, or other workers are missing: the rest is not replaced."""


@dataclass(frozen=True)
class RollingHooks:
    """The actions of the launcher in a rolling restart.

    renew: make later starts use what has changed on disk.
    is_running: whether a process runs.
    pool_state: the last published state.
    drain_worker: have a worker finish its requests and exit; the coordinator fills its slot again.
    kill_worker: kill a worker.
    replace_frontend: start another frontend in a frontend's slot, and return its id.
    retire_frontend: have a frontend leave new connections to the others, finish, and exit.
    """

    renew: Callable[[], Awaitable[None]]
    is_running: Callable[[str], bool]
    pool_state: Callable[[], PoolState | None]
    drain_worker: Callable[[str], object]
    kill_worker: Callable[[str], object]
    replace_frontend: Callable[[str], Awaitable[str]]
    retire_frontend: Callable[[str], object]


class RollingRestarts:
    """Rolling restarts on request, one after another.

    workers, frontends: the ids of the running processes. drain_s, start_s: see `roll`.
    """

    def __init__(
        self,
        hooks: RollingHooks,
        workers: Callable[[], Iterable[str]],
        frontends: Callable[[], Iterable[str]],
        drain_s: float,
        start_s: float,
    ) -> None:
        self._hooks, self._timeouts = hooks, (drain_s, start_s)
        self._workers, self._frontends = workers, frontends
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Request a rolling restart, which starts after the one in progress."""
        self._requested.set()

    async def run(self) -> None:
        """Execute requests until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            log.info("rolling restart: workers, then frontends")
            try:
                await roll(self._workers(), self._frontends(), self._hooks, *self._timeouts)
                log.info("rolling restart: done")
            except (RollingFailed, OSError) as error:
                log.error("rolling restart: aborted: %s", error)


async def roll(
    workers: Iterable[str],
    frontends: Iterable[str],
    hooks: RollingHooks,
    drain_s: float,
    start_s: float,
) -> None:
    """Replace processes, given by their ids.

    drain_s: time of a worker to finish its requests; those that are left then are migrated.
    start_s: time of a worker to become ready.

    Raises RollingFailed if a successor does not become ready.
    """
    await hooks.renew()
    for worker_id in workers:
        await _replace_worker(worker_id, hooks, drain_s, start_s)
    for frontend_id in frontends:
        await _replace_frontend(frontend_id, hooks)


async def _replace_worker(
    worker_id: str, hooks: RollingHooks, drain_s: float, start_s: float
) -> None:
    if not hooks.is_running(worker_id):
        return  # it has exited by itself: its successor is new
    group = slot_of(worker_id).rpartition("-")[0]
    if not await _wait_until(lambda: _is_whole(hooks.pool_state(), group), WHOLE_S):
        raise RollingFailed(f"{worker_id} is kept, since its group lacks workers already")
    if not hooks.is_running(worker_id):
        return
    hooks.drain_worker(worker_id)
    if not await _wait_until(lambda: not hooks.is_running(worker_id), drain_s + LATE_S):
        log.warning("%s did not stop within %.0f s: killed", worker_id, drain_s + LATE_S)
        hooks.kill_worker(worker_id)

    def has_successor() -> bool:
        return _has_successor(hooks.pool_state(), worker_id)

    def is_decided() -> bool:
        return has_successor() or _has_problem(hooks.pool_state(), group)

    await _wait_until(is_decided, start_s + LATE_S)
    if not has_successor():
        raise RollingFailed(f"no worker became ready to replace {worker_id}")


def _has_successor(state: PoolState | None, worker_id: str) -> bool:
    """Return whether another worker serves in a worker's slot."""
    return state is not None and any(
        worker.state in SERVING
        and worker.worker_id != worker_id
        and slot_of(worker.worker_id) == slot_of(worker_id)
        for worker in state.workers
    )


def _has_problem(state: PoolState | None, group: str) -> bool:
    return state is not None and any(each.problem for each in state.groups if each.name == group)


def _is_whole(state: PoolState | None, group: str) -> bool:
    """Return whether all workers of a group are ready or asleep."""
    if state is None:
        return False
    serving = sum(worker.state in SERVING and worker.group == group for worker in state.workers)
    return all(serving >= each.target_size for each in state.groups if each.name == group)


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
