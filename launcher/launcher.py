"""The launcher: parent of all processes of a pool on one host.

It holds the HTTP socket and its children, and no state of its own: the coordinator decides which
workers there are to be, and a restarted coordinator learns from it who runs and what the one before
has last said of them.
"""

import asyncio
import logging
import os
import signal
import socket
import time

from headrace.launcher.children import Child, Children
from headrace.launcher.coordinator_link import CoordinatorLink
from headrace.launcher.coordinator_watch import CoordinatorWatch
from headrace.launcher.fork_servers import FORK_SERVER
from headrace.launcher.readiness import Readiness
from headrace.launcher.restarter import Restarter
from headrace.launcher.rolling import RollingHooks, RollingRestarts
from headrace.launcher.spawner import Spawner
from headrace.protocol import to_coordinator, to_launcher
from headrace.protocol.common.clean_up import clean_up_after
from headrace.protocol.common.pool_status import has_all_workers
from headrace.protocol.common.process import EX_CONFIG
from headrace.protocol.common.process_registry import COORDINATOR, FRONTEND, WORKER, Member
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import PoolConfig

log = logging.getLogger("launcher")

# Beyond the time that requests have: their clients are told that they are not finished.
FRONTEND_STOP_TIMEOUT_S = 4.0
# Workers are stopped when no frontend is left, so that they have nothing to finish.
WORKER_STOP_TIMEOUT_S = 5.0
COORDINATOR_STOP_TIMEOUT_S = 2.0
TEMPLATE_STOP_TIMEOUT_S = 2.0


class Launcher:
    """Runs a pool until a signal ends it. `listener` is the bound HTTP socket.

    frontends_last: start the frontends when the workers are ready. Until then connections wait in
        the socket: the request that made systemd start the pool would otherwise get a 503.
    """

    def __init__(
        self,
        config: PoolConfig,
        listener: socket.socket,
        url: str,
        notifier: Notifier,
        frontends_last: bool,
    ) -> None:
        self._config, self._listener = config, listener
        self._notifier, self._frontends_wait = notifier, frontends_last
        self._children = Children(self._on_exit)
        self._spawner = Spawner(config, self._children, listener)
        self._link = CoordinatorLink(config, self._children, self._start_worker)
        self._stop = asyncio.Event()
        self._stops_workers = False  # they are replaced for as long as frontends have requests
        self._restarter = Restarter(self._start_place, self._is_over, self._stop)
        self._rolling = self._make_rolling()
        self._watch = CoordinatorWatch(
            config.stall_timeout_s, lambda: self._children.kill(COORDINATOR)
        )
        self._readiness = Readiness(config, url, notifier)
        self._exit_status = 0

    async def run(self) -> int:
        """The exit status: 0 after a signal, 1 if the pool could not be started."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._rolling.ask)
        await self._spawner.keep_templates()
        await self._start_coordinator()
        if not self._frontends_wait:
            await self._start_frontends()
        await self._link.greet()
        work = (
            self._link.obey(),
            self._watch_state(),
            self._watch.run(),
            self._feed_watchdog(),
        )
        tasks = [asyncio.create_task(each) for each in work]
        for task in tasks:
            task.add_done_callback(self._on_task_done)
        roller = asyncio.create_task(self._rolling.run())
        roller.add_done_callback(self._on_task_done)
        await self._stop.wait()
        roller.cancel()
        await self._stop_children()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Only now does nobody wait for a template, who would start a worker without one.
        await self._children.stop([FORK_SERVER], TEMPLATE_STOP_TIMEOUT_S)
        self._link.close()
        return self._exit_status

    # Starting

    async def _start_coordinator(self) -> None:
        await self._spawner.coordinator()
        self._watch.started()

    async def _start_frontends(self) -> None:
        self._frontends_wait = False
        for index in range(self._config.frontends):
            await self._start_frontend(f"frontend-{index}")

    async def _start_frontend(self, place: str) -> str:
        """Returns its id, which tells its starts apart: the workers number messages by it."""
        process_id = self._restarter.new_id(place)
        await self._spawner.frontend(process_id)
        await self._link.tell(to_coordinator.FrontendStarted(process_id))
        if self._stop.is_set():  # it was not yet there when the others were told
            self._children.kill(process_id)
        return process_id

    async def _start_worker(self, order: to_launcher.StartWorker) -> None:
        if self._is_over(WORKER):
            return
        await self._spawner.worker(order)
        if self._is_over(WORKER):
            self._children.kill(order.worker_id)

    async def _start_place(self, role: str, place: str) -> None:
        if role == FRONTEND:
            await self._start_frontend(place)
        else:
            await self._start_coordinator()
            await self._link.greet()

    def _is_over(self, role: str) -> bool:
        """Whether another is needed no more. Requests that are to be finished may need another
        coordinator, to replace their workers."""
        return self._stop.is_set() if role == FRONTEND else self._stops_workers

    # Running

    async def _watch_state(self) -> None:
        while True:
            state = await self._link.next_state()
            self._watch.heard()
            if self._frontends_wait and has_all_workers(state) and not self._stop.is_set():
                await self._start_frontends()
            self._readiness.on_state(state)

    async def _feed_watchdog(self) -> None:
        """The launcher lives while its loop turns; whether its children do, it sees itself."""
        while self._notifier.beat_s is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.beat_s / 2)

    async def _on_exit(self, child: Child, exit_code: int) -> None:
        if child.role == FORK_SERVER:
            if not self._is_over(WORKER):
                await self._spawner.templates.ended(child.process_id)
            return
        if child.role == WORKER and exit_code == 0:  # after a crash the next one takes them over
            self._spawner.shared_weights.empty_unused()
        clean_up_after(self._config, Member(child.process_id, child.role, child.process.pid))
        if self._stop.is_set():
            # Frontends may still wait for it.
            await self._link.tell(
                to_coordinator.ChildExited(child.process_id, child.role, exit_code)
            )
            if child.role == COORDINATOR:
                await self._restarter.start_again(COORDINATOR, COORDINATOR)
            return
        is_starting = not self._readiness.was_announced
        if exit_code == EX_CONFIG and is_starting:
            # The child has said why; to start it again would say the same again.
            self._give_up()
            return
        await self._link.tell(to_coordinator.ChildExited(child.process_id, child.role, exit_code))
        if (
            child.role != WORKER
            and not self._restarter.is_replaced(child.process_id)
            and not await self._restarter.restart(child, exit_code, may_give_up=is_starting)
        ):
            self._give_up()

    def _make_rolling(self) -> RollingRestarts:
        children, config = self._children, self._config
        steps = RollingHooks(
            self._spawner.renew,
            lambda each: each in (*children.ids(WORKER), *children.ids(FRONTEND)),
            lambda: self._link.published,
            lambda worker_id: children.signal(worker_id, signal.SIGTERM),
            children.kill,
            lambda frontend_id: self._start_frontend(frontend_id.rpartition(".")[0]),
            lambda frontend_id: children.signal(frontend_id, signal.SIGHUP),
        )
        return RollingRestarts(
            steps,
            lambda: children.ids(WORKER),
            lambda: [
                each for each in children.ids(FRONTEND) if not self._restarter.is_replaced(each)
            ],
            config.shutdown_timeout_s,
            config.start_timeout_s,
        )

    # Stopping

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Neither task may end by an error unseen: without it, nothing would be started again."""
        if not task.cancelled() and task.exception() is not None:
            log.critical("the launcher has failed", exc_info=task.exception())
            self._give_up()

    def _give_up(self) -> None:
        self._exit_status = 1
        self._stop.set()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            log.warning("second signal: all processes are killed")
            self._stops_workers = True
            self._children.kill_all()
        self._stop.set()

    async def _stop_children(self) -> None:
        """Frontends first: they finish what they have; then nobody needs the workers."""
        log.info("stopping")
        self._notifier.stopping("stopping: requests in flight finish")
        self._listener.close()
        finished_by = time.monotonic() + self._config.shutdown_timeout_s
        timeout_s = self._config.shutdown_timeout_s + FRONTEND_STOP_TIMEOUT_S
        await self._children.stop([FRONTEND], timeout_s)
        self._stops_workers = True
        if COORDINATOR in self._restarter.refused and time.monotonic() >= finished_by:
            log.critical("no coordinator could be started within the time to finish requests")
            self._exit_status = 1
        await self._children.stop([WORKER], WORKER_STOP_TIMEOUT_S)
        await self._children.stop([COORDINATOR], COORDINATOR_STOP_TIMEOUT_S)
        log.info("stopped")


async def run_launcher(
    config: PoolConfig,
    listener: socket.socket,
    url: str,
    notifier: Notifier,
    frontends_last: bool = False,
) -> int:
    """Run a pool in this process and its children; returns the exit status."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(config.metrics_dir)
    return await Launcher(config, listener, url, notifier, frontends_last).run()
