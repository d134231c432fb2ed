"""A rolling restart: every worker and every frontend is replaced, one at a time, under load."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from headrace.protocol.state import SERVING, PoolState

log = logging.getLogger("launcher")

POLL_S = 0.1
# A worker that has had its time to finish and is still there after so much more is killed.
LATE_S = 5.0
# How long to wait for workers that a group lacks for another reason, before one more is taken away.
WHOLE_S = 60.0
# Until a frontend has read its tokenizers and has been heard of.
FRONTEND_START_S = 60.0


class RollingFailed(Exception):
    """What was to take a process's place did not come, or others are missing: the rest stays as it
    is."""


@dataclass(frozen=True)
class RollingHooks:
    """What the launcher does for a rolling restart.

    renew: have what is started from now on take in what has changed. lives: whether a process is
    still there. drain_worker: ask a worker to finish and to end; the coordinator has its place
    filled again. replace_frontend: start another in its place, and return its id. retire_frontend:
    leave new connections to the others, finish, end.
    """

    renew: Callable[[], Awaitable[None]]
    lives: Callable[[str], bool]
    state: Callable[[], PoolState | None]
    drain_worker: Callable[[str], object]
    kill_worker: Callable[[str], object]
    replace_frontend: Callable[[str], Awaitable[str]]
    retire_frontend: Callable[[str], object]


class RollingRestarts:
    """Replaces what runs each time that it is asked to; who asks meanwhile has his turn after.

    workers, frontends: who runs (ids). drain_s, start_s: see `roll`.
    """

    def __init__(
        self,
        steps: RollingHooks,
        workers: Callable[[], Iterable[str]],
        frontends: Callable[[], Iterable[str]],
        drain_s: float,
        start_s: float,
    ) -> None:
        self._steps, self._limits = steps, (drain_s, start_s)
        self._workers, self._frontends = workers, frontends
        self._is_wanted = asyncio.Event()

    def ask(self) -> None:
        self._is_wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            log.info("rolling restart: workers, then frontends")
            try:
                await roll(self._workers(), self._frontends(), self._steps, *self._limits)
                log.info("rolling restart: done")
            except (RollingFailed, OSError) as error:
                log.error("rolling restart: given up: %s", error)


async def roll(
    workers: Iterable[str],
    frontends: Iterable[str],
    steps: RollingHooks,
    drain_s: float,
    start_s: float,
) -> None:
    """Replace these processes (ids). drain_s: what a worker has to finish its requests; what is
    left of them then goes on elsewhere. start_s: how long a worker may take to be ready.

    RollingFailed when a successor does not come.
    """
    await steps.renew()
    for worker_id in workers:
        await _replace_worker(worker_id, steps, drain_s, start_s)
    for frontend_id in frontends:
        await _replace_frontend(frontend_id, steps)


async def _replace_worker(
    worker_id: str, steps: RollingHooks, drain_s: float, start_s: float
) -> None:
    if not steps.lives(worker_id):
        return  # it has ended by itself: who is in its place is new
    place = _place(worker_id)
    group = place.rpartition("-")[0]
    if not await _comes_true(lambda: _is_whole(steps.state(), group), WHOLE_S):
        raise RollingFailed(f"{worker_id} stays, since its group lacks workers already")
    if not steps.lives(worker_id):
        return
    steps.drain_worker(worker_id)
    if not await _comes_true(lambda: not steps.lives(worker_id), drain_s + LATE_S):
        log.warning("%s did not stop within %.0f s: killed", worker_id, drain_s + LATE_S)
        steps.kill_worker(worker_id)

    def has_successor() -> bool:
        state = steps.state()
        return state is not None and any(
            each.state in SERVING
            and each.worker_id != worker_id
            and _place(each.worker_id) == place
            for each in state.workers
        )

    def has_problem() -> bool:
        state = steps.state()
        return state is not None and any(
            each.problem for each in state.groups if each.name == group
        )

    await _comes_true(lambda: has_successor() or has_problem(), start_s + LATE_S)
    if not has_successor():
        raise RollingFailed(f"no worker has come in place of {worker_id}")


def _is_whole(state: PoolState | None, group: str) -> bool:
    """Whether all workers of a group are ready, or sleep."""
    if state is None:
        return False
    serving = sum(each.state in SERVING and each.group == group for each in state.workers)
    return all(serving >= each.wanted for each in state.groups if each.name == group)


async def _replace_frontend(frontend_id: str, steps: RollingHooks) -> None:
    if not steps.lives(frontend_id):
        return
    successor = await steps.replace_frontend(frontend_id)

    def is_there() -> bool:
        state = steps.state()
        return state is not None and any(each.frontend_id == successor for each in state.frontends)

    if not await _comes_true(is_there, FRONTEND_START_S):
        raise RollingFailed(f"{successor} has not come in place of {frontend_id}")
    steps.retire_frontend(frontend_id)


async def _comes_true(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether a condition comes to hold in time."""
    ends_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= ends_at:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _place(process_id: str) -> str:
    return process_id.rpartition(".")[0]
