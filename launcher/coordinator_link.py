"""The launcher's sockets to the coordinator: what it tells, what it is ordered, and what it hears
of the pool."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, assert_never

import zmq.asyncio

from headrace.launcher.children import Children
from headrace.protocol import PROTOCOL_VERSION, sockets, to_coordinator, to_launcher, to_worker
from headrace.protocol.codec import DecodeError
from headrace.protocol.common.process_registry import FRONTEND, WORKER
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import STATE, PoolState

log = logging.getLogger("launcher")


class CoordinatorLink:
    """start_worker: does what is ordered; OSError if the system will not have the worker.

    published: what the coordinator has last said of the pool, which a next one has to be told.
    """

    def __init__(
        self,
        config: PoolConfig,
        children: Children,
        start_worker: Callable[[to_launcher.StartWorker], Awaitable[None]],
    ) -> None:
        self._children, self._start_worker = children, start_worker
        self._last_workers: dict[str, str] = {}  # newest id by place
        self.published: PoolState | None = None
        self._context = zmq.asyncio.Context.instance()
        run_dir = config.run_dir
        self._control = sockets.dealer(self._context, sockets.control_endpoint(run_dir), "launcher")
        self._state = sockets.subscriber(self._context, sockets.state_endpoint(run_dir))

    async def greet(self) -> None:
        """Say who runs."""
        workers, frontends = self._children.ids(WORKER), self._children.ids(FRONTEND)
        state = self.published
        published = () if state is None else state.workers
        published_frontends = () if state is None else state.frontends
        await self.tell(
            to_coordinator.LauncherHello(
                PROTOCOL_VERSION,
                workers,
                frontends,
                tuple(self._last_workers.values()),
                tuple(each for each in published if each.worker_id in workers),
                tuple(each for each in published_frontends if each.frontend_id in frontends),
                {} if state is None else {each.name: each.wanted for each in state.groups},
            )
        )

    async def tell(self, message: to_coordinator.ControlMessage) -> None:
        await self._control.send(to_coordinator.CONTROL.encode(message))

    async def obey(self) -> None:
        """Do what the coordinator orders, until cancelled. A start may take seconds, and holds up
        no other order."""
        async with asyncio.TaskGroup() as starts:
            await self._obey(starts)

    async def _obey(self, starts: asyncio.TaskGroup) -> None:
        while True:
            data: Any = await self._control.recv()
            try:
                order = to_launcher.CONTROL.decode(data)
            except DecodeError as error:
                log.warning("dropped a malformed message: %s", error)
                continue
            match order:
                case to_worker.Introduce():
                    await self.greet()
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
        """What the coordinator publishes next."""
        while True:
            try:
                self.published = STATE.decode(await self._state.recv())
            except DecodeError as error:
                log.warning("dropped a malformed state: %s", error)
            else:
                return self.published

    def close(self) -> None:
        self._context.destroy(linger=0)

    async def _try_to_start(self, order: to_launcher.StartWorker) -> None:
        """A worker that cannot be started counts as one that has ended.

        A new coordinator, greeted before an order of the one before it was read, gives it again.
        """
        if order.worker_id in self._children.ids(WORKER):
            return
        self._last_workers[order.worker_id.rpartition(".")[0]] = order.worker_id
        try:
            await self._start_worker(order)
        except OSError as error:
            log.error("%s cannot be started: %s", order.worker_id, error)
            await self.tell(to_coordinator.ChildExited(order.worker_id, WORKER, 1))

    async def _kill(self, process_id: str, role: str) -> None:
        """One that is not there has ended, and the coordinator has missed the news."""
        if not self._children.kill(process_id):
            await self.tell(to_coordinator.ChildExited(process_id, role, 0))
