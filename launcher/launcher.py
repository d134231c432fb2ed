"""The launcher: parent of all processes of a pool on one host.

It holds the HTTP socket and its children, and no state of its own: the coordinator decides which
workers run, and a restarted coordinator learns from the launcher which processes run and what its
predecessor last published of them.
"""

import asyncio
import logging
import os
import signal
import socket
import time

from headrace.launcher.children import Child, Children, slot_of
from headrace.launcher.coordinator_link import CoordinatorLink
from headrace.launcher.coordinator_watch import CoordinatorWatch
from headrace.launcher.hardware import log_limits
from headrace.launcher.readiness import Readiness
from headrace.launcher.reload_conditions import group_of
from headrace.launcher.reload_memory import gpu_of, why_no_room
from headrace.launcher.restarter import Restarter
from headrace.launcher.rolling import RollingHooks, RollingRestarts
from headrace.launcher.spawner import Spawner
from headrace.protocol import to_coordinator, to_launcher
from headrace.protocol.common.clean_up import remove_leftovers
from headrace.protocol.common.host.pressure import MemoryKills
from headrace.protocol.common.pool_status import has_all_workers
from headrace.protocol.common.process import EX_CONFIG
from headrace.protocol.common.process_registry import (
    COORDINATOR,
    FORK_SERVER,
    FRONTEND,
    WORKER,
    RegisteredProcess,
    Role,
)
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import PoolConfig

log = logging.getLogger("headrace.launcher")

# Beyond the time that requests have to finish: clients of unfinished ones get an error.
FRONTEND_STOP_TIMEOUT_S = 4.0
# Workers are stopped when no frontend is left, so that they have nothing to finish.
WORKER_STOP_TIMEOUT_S = 5.0
COORDINATOR_STOP_TIMEOUT_S = 2.0
FORK_SERVER_STOP_TIMEOUT_S = 2.0


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
        self._notifier, self._frontends_pending = notifier, frontends_last
        self._children = Children(self._on_exit)
        self._spawner = Spawner(config, self._children, listener)
        self._link = CoordinatorLink(config, self._children, self._start_worker)
        self._stop = asyncio.Event()
        self._workers_stopping = False  # workers are replaced while frontends have requests
        self._restarter = Restarter(self._start_slot, self._is_over, self._stop)
        self._rolling = self._make_rolling()
        self._watch = CoordinatorWatch(
            config.stall_timeout_s, lambda: self._children.kill(COORDINATOR)
        )
        self._readiness = Readiness(config, url, notifier)
        self._memory_kills = MemoryKills()
        self._exit_status = 0

    async def run(self) -> int:
        """Return the exit status: 0 after a signal, 78 if the model cannot be run, 1 if the pool
        could not be started for other reasons."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._rolling.request)
        log_limits()
        try:
            await self._start_children()
        except OSError as error:  # no processes, descriptors or memory left
            log.critical("the pool cannot be started: %s", error)
            self._children.kill_all()
            self._link.close()
            return 1
        coroutines = (
            self._link.execute_orders(),
            self._watch_state(),
            self._watch.run(),
            self._feed_watchdog(),
        )
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        roller = asyncio.create_task(self._rolling.run())
        for task in (*tasks, roller):
            task.add_done_callback(self._on_task_done)
        await self._stop.wait()
        roller.cancel()
        await self._stop_children()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Not before: a start that waits for a fork server would start its worker without one.
        await self._children.stop([FORK_SERVER], FORK_SERVER_STOP_TIMEOUT_S)
        self._link.close()
        return self._exit_status

    # Starting

    async def _start_children(self) -> None:
        await self._spawner.start_fork_servers()
        await self._start_coordinator()
        if not self._frontends_pending:
            await self._start_frontends()
        await self._link.send_hello()

    async def _start_coordinator(self) -> None:
        await self._spawner.start_coordinator()
        self._watch.started()

    async def _start_frontends(self) -> None:
        self._frontends_pending = False
        for index in range(self._config.frontends):
            await self._start_frontend(f"frontend-{index}")

    async def _start_frontend(self, slot: str) -> str:
        """Start a frontend; return its id, by which workers tell its messages from earlier ones."""
        process_id = self._restarter.new_id(slot)
        await self._spawner.start_frontend(process_id)
        await self._link.send(to_coordinator.FrontendStarted(process_id))
        if self._stop.is_set():  # it did not run yet when the others got their signal
            self._children.kill(process_id)
        return process_id

    async def _start_worker(self, order: to_launcher.StartWorker) -> None:
        if self._is_over(WORKER):
            return
        try:
            await self._spawner.start_worker(order)
        except OSError:
            self._rolling.note_exit(order.worker_id, 1)
            raise
        if self._is_over(WORKER):
            self._children.kill(order.worker_id)

    async def _start_slot(self, role: Role, slot: str) -> None:
        if role == FRONTEND:
            await self._start_frontend(slot)
        else:
            await self._start_coordinator()
            await self._link.send_hello()

    def _is_over(self, role: Role) -> bool:
        """Return whether no more processes of a role are needed.

        Requests that are being finished may need another coordinator, to replace their workers.
        """
        return self._stop.is_set() if role == FRONTEND else self._workers_stopping

    # Running

    async def _watch_state(self) -> None:
        while True:
            state = await self._link.next_state()
            self._watch.heard()
            self._memory_kills.look(time.monotonic())
            if self._frontends_pending and has_all_workers(state) and not self._stop.is_set():
                await self._start_frontends()
            self._readiness.on_state(state)

    async def _feed_watchdog(self) -> None:
        """Feed systemd's watchdog while the event loop runs; the children have other watchdogs."""
        while self._notifier.beat_s is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.beat_s / 2)

    async def _on_exit(self, child: Child, exit_status: int) -> None:
        # Of a worker the coordinator says so.
        if child.role != WORKER and self._memory_kills.explains(exit_status, time.monotonic()):
            log.error("%s was killed by the kernel for want of memory", child.process_id)
        if child.role == FORK_SERVER:
            if not self._is_over(WORKER):
                await self._spawner.fork_servers.on_exit(child.process_id)
            return
        if child.role == WORKER:
            self._rolling.note_exit(child.process_id, exit_status)
        if child.role == WORKER and exit_status == 0:  # after a crash its successor takes them over
            self._spawner.shared_weights.empty_unused()
        remove_leftovers(
            self._config, RegisteredProcess(child.process_id, child.role, child.process.pid)
        )
        if child.role == WORKER and self._workers_stopping and exit_status == -signal.SIGTERM:
            return  # ended before it could handle the signal: no failure that is worth a word
        exited = to_coordinator.ChildExited(child.process_id, child.role, exit_status)
        if self._stop.is_set():
            await self._link.send(exited)  # frontends may still wait for it
            if child.role == COORDINATOR:
                await self._restarter.start_until_running(COORDINATOR, COORDINATOR)
            return
        is_starting = not self._readiness.was_announced
        if exit_status == EX_CONFIG and is_starting:
            # The child has logged why; another start would fail alike, and systemd must know.
            self._fail(EX_CONFIG)
            return
        await self._link.send(exited)
        if (
            child.role != WORKER
            and not self._restarter.is_replaced(child.process_id)
            and not await self._restarter.restart(child, exit_status, may_give_up=is_starting)
        ):
            self._fail()

    def _make_rolling(self) -> RollingRestarts:
        children, config = self._children, self._config
        hooks = RollingHooks(
            renew=self._spawner.renew,
            is_running=lambda id_: id_ in (*children.ids(WORKER), *children.ids(FRONTEND)),
            pool_state=lambda: self._link.pool_state,
            workers=lambda: children.ids(WORKER),
            report=self._link.report_reload,
            why_not_beside=self._why_not_beside,
            drain_worker=lambda worker_id: children.signal(worker_id, signal.SIGTERM),
            kill_worker=children.kill,
            replace_frontend=lambda frontend_id: self._start_frontend(slot_of(frontend_id)),
            retire_frontend=lambda frontend_id: children.signal(frontend_id, signal.SIGHUP),
        )
        return RollingRestarts(
            hooks,
            lambda: [id_ for id_ in children.ids(FRONTEND) if not self._restarter.is_replaced(id_)],
            config.shutdown_timeout_s,
            config.start_timeout_s,
        )

    async def _why_not_beside(self, worker_id: str) -> str:
        """Return why no successor can run beside a worker; "" if it can."""
        if not self._config.reload_surge:
            return "--no-reload-surge"
        group = self._config.group(group_of(worker_id))
        pid = self._children.pid(worker_id)
        if pid is None:
            return "it is being started"
        return await why_no_room(pid, group, gpu_of(self._spawner.index_on_host(worker_id)))

    # Stopping

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Stop the pool if a task has failed: without it, nothing would be restarted."""
        if not task.cancelled() and task.exception() is not None:
            log.critical("the launcher has failed", exc_info=task.exception())
            self._fail()

    def _fail(self, exit_status: int = 1) -> None:
        self._exit_status = exit_status
        self._stop.set()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            log.warning("second signal: killing all processes")
            self._workers_stopping = True
            self._children.kill_all()
        self._stop.set()

    async def _stop_children(self) -> None:
        """Stop the frontends first: when their requests are finished, no workers are needed."""
        log.info("stopping")
        self._notifier.stopping("stopping: requests in flight finish")
        self._listener.close()
        finished_by = time.monotonic() + self._config.shutdown_timeout_s
        timeout_s = self._config.shutdown_timeout_s + FRONTEND_STOP_TIMEOUT_S
        await self._children.stop([FRONTEND], timeout_s)
        self._workers_stopping = True
        if COORDINATOR in self._restarter.failed_slots and time.monotonic() >= finished_by:
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
    """Run a pool in this process and its children; return the exit status."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(config.metrics_dir)
    return await Launcher(config, listener, url, notifier, frontends_last).run()
