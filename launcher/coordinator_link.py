"""The launcher's sockets to the coordinator: reports to it, orders from it, and the pool state."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import assert_never

import zmq.asyncio

from headrace.launcher.children import Children, slot_of
from headrace.protocol import PROTOCOL_VERSION, sockets, to_coordinator, to_launcher, to_worker
from headrace.protocol.codec import DecodeError
from headrace.protocol.common.process_registry import FRONTEND, WORKER, Role
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import STATE, PoolState, ReloadState

log = logging.getLogger("headrace.launcher")


class CoordinatorLink:
    """Executes the coordinator's orders.

    start_worker: starts a worker as ordered; raises OSError if the system refuses the process.
    pool_state: the last published one, which the next coordinator needs.
    """

    def __init__(
        self,
        config: PoolConfig,
        children: Children,
        start_worker: Callable[[to_launcher.StartWorker], Awaitable[None]],
    ) -> None:
        self._children, self._start_worker = children, start_worker
        self._last_workers: dict[str, str] = {}  # newest id by slot
        self._reload: ReloadState | None = None
        self.pool_state: PoolState | None = None
        self._context = zmq.asyncio.Context.instance()
        run_dir = config.run_dir
        self._control = sockets.dealer(self._context, sockets.control_endpoint(run_dir), "launcher")
        self._state = sockets.subscriber(self._context, sockets.state_endpoint(run_dir))

    async def send_hello(self) -> None:
        """Report which processes run, and what the last coordinator published of them."""
        workers, frontends = self._children.ids(WORKER), self._children.ids(FRONTEND)
        state = self.pool_state
        known_workers = () if state is None else state.workers
        known_frontends = () if state is None else state.frontends
        await self.send(
            to_coordinator.LauncherHello(
                PROTOCOL_VERSION,
                workers,
                frontends,
                tuple(self._last_workers.values()),
                tuple(worker for worker in known_workers if worker.worker_id in workers),
                tuple(each for each in known_frontends if each.frontend_id in frontends),
                {} if state is None else {group.name: group.target_size for group in state.groups},
            )
        )

        if self._reload is not None:
            await self.report_reload(self._reload)

    async def report_reload(self, reload: ReloadState) -> None:
        """Report how far a rolling restart is; the next coordinator is told, too."""
        self._reload = reload
        await self.send(to_coordinator.ReloadProgress(reload))

    async def send(self, message: to_coordinator.ControlMessage) -> None:
        """Send a message to the coordinator."""
        await self._control.send(to_coordinator.CONTROL.encode(message))

    async def execute_orders(self) -> None:
        """Execute the coordinator's orders until cancelled.

        A start may take seconds, and delays no other order.
        """
        async with asyncio.TaskGroup() as starts:
            while True:
                data: bytes = await self._control.recv()
                try:
                    order = to_launcher.CONTROL.decode(data)
                except DecodeError as error:
                    log.warning("dropped a malformed message: %s", error)
                else:
                    await self._execute(order, starts)

    async def _execute(self, order: to_launcher.ControlMessage, starts: asyncio.TaskGroup) -> None:
        match order:
            case to_worker.Introduce():
                await self.send_hello()
            case to_launcher.StartWorker():
                starts.create_task(self._try_to_start(order))
                await asyncio.sleep(0)  # so that the next order finds it among the children
            case to_launcher.KillWorker(worker_id):
                await self._kill(worker_id, WORKER)
            case to_launcher.KillFrontend(frontend_id):
                await self._kill(frontend_id, FRONTEND)
            case _:
                assert_never(order)

    async def next_state(self) -> PoolState:
        """Wait for the next pool state that the coordinator publishes."""
        while True:
            try:
                self.pool_state = STATE.decode(await self._state.recv())
            except DecodeError as error:
                log.warning("dropped a malformed state: %s", error)
            else:
                return self.pool_state

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)

    async def _try_to_start(self, order: to_launcher.StartWorker) -> None:
        """Start a worker; one that cannot be started counts as one that has ended.

        A new coordinator that gets the hello before an order of the previous one was executed
        repeats that order.
        """
        if order.worker_id in self._children.ids(WORKER):
            return
        self._last_workers[slot_of(order.worker_id)] = order.worker_id
        try:
            await self._start_worker(order)
        except OSError as error:
            log.error("%s cannot be started: %s", order.worker_id, error)
            await self.send(to_coordinator.ChildExited(order.worker_id, WORKER, 1))

    async def _kill(self, process_id: str, role: Role) -> None:
        """Kill a child. If it does not run, the coordinator has missed its exit: report it."""
        if not self._children.kill(process_id):
            await self.send(to_coordinator.ChildExited(process_id, role, 0))
