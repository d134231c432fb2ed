"""The sockets of a frontend: requests to and outputs from workers, control, and the pool state."""

import asyncio
import contextlib
import inspect
import logging
import os
from collections.abc import Callable
from typing import Any, Self, assert_never

import zmq.asyncio

from headrace.frontend.critical_task import spawn_critical
from headrace.frontend.pool.assemble import assemble_dispatch
from headrace.frontend.pool.call_handlers import FrontendCallHandlers
from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import LiveLoad, PoolBusy
from headrace.frontend.pool.pool_calls import PoolCalls
from headrace.frontend.pool.shared_load import open_shared_load
from headrace.protocol import PROTOCOL_VERSION, sockets, to_coordinator, to_frontend, to_worker
from headrace.protocol.call_results import AnyResult
from headrace.protocol.calls import AnyCall, CallTarget
from headrace.protocol.codec import DecodeError
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import STATE, FrontendLoad, PoolState
from headrace.protocol.to_coordinator import CallResult
from headrace.protocol.to_frontend import FrontendCall, PoolResult
from headrace.protocol.to_worker import Encode, Generate, Introduce, RequestMessage

log = logging.getLogger("headrace.frontend")

HEARTBEAT_S = 0.25
# Messages of one worker that are handled before streams get their turn.
MESSAGES_AT_ONCE = 64


class PoolClient:
    """The Pool of a frontend process; `async with` it while requests are served.

    on_replay: called with the group of each request that is replayed and its lost worker.
    handlers: execute the calls that frontends answer.
    """

    def __init__(
        self,
        config: PoolConfig,
        frontend_id: str,
        on_replay: Callable[[str, str], None],
        handlers: FrontendCallHandlers,
    ) -> None:
        self._id, self._handlers = frontend_id, handlers
        self._context = zmq.asyncio.Context()
        run_dir = config.run_dir
        self._control = sockets.dealer(
            self._context, sockets.control_endpoint(run_dir), frontend_id
        )
        self._updates = sockets.subscriber(self._context, sockets.state_endpoint(run_dir))
        self._dispatch = assemble_dispatch(
            self._send,
            max_replays=config.max_replays,
            on_replay=on_replay,
            shared=open_shared_load(run_dir / "load", frontend_id),
            wake=self._request_wake_up if config.wake_on_demand else None,
            wake_timeout_s=config.wake_timeout_s,
            reject_while_scaling=config.reject_while_scaling,
        )
        self._calls = PoolCalls(frontend_id, self._send_to_coordinator)
        self._state: PoolState | None = None
        self._has_state = asyncio.Event()
        self._workers: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: dict[str, asyncio.Task[None]] = {}
        self.malformed = 0

    @property
    def state(self) -> PoolState | None:
        return self._state

    def live_load(self) -> LiveLoad:
        return LiveLoad() if self._state is None else self._dispatch.live_load(self._state)

    @property
    def in_flight(self) -> int:
        return self._dispatch.in_flight

    async def wait_for_state(self, timeout_s: float) -> None:
        """Wait until the pool state is known, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_state.wait()

    def generate(self, group: str, request: Generate) -> Flight:
        return self._dispatch.submit(group, request)

    def encode(self, group: str, request: Encode) -> Flight:
        return self._dispatch.submit(group, request)

    def why_busy(self) -> PoolBusy | None:
        return self._dispatch.why_busy()

    async def call(self, call: AnyCall, target: CallTarget, timeout_s: float) -> PoolResult:
        return await self._calls.call(call, target, timeout_s)

    async def __aenter__(self) -> Self:
        for work in (self._watch_state(), self._handle_control(), self._send_heartbeats()):
            self._tasks.add(spawn_critical(work))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in [*self._tasks, *self._readers.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._readers.values(), return_exceptions=True)
        self._dispatch.close()
        self._context.destroy(linger=0)

    # Workers

    def _send(self, worker_id: str, message: RequestMessage) -> bool:
        socket = self._workers.get(worker_id)
        return socket is not None and sockets.send_now(socket, to_worker.REQUESTS.encode(message))

    async def _read(self, worker_id: str, socket: Any) -> None:
        """Handle all messages of a worker until it leaves the pool."""
        arrived = sockets.PendingMessages(socket)
        while True:
            self._on_data(worker_id, await socket.recv())
            for data in arrived.drain(MESSAGES_AT_ONCE):
                self._on_data(worker_id, data)
            await asyncio.sleep(0)  # so that streams continue while workers send

    def _on_data(self, worker_id: str, data: bytes) -> None:
        try:
            message = to_frontend.OUTPUTS.decode(data)
        except DecodeError as error:
            self.malformed += 1
            log.warning("dropping a malformed message from %s: %s", worker_id, error)
            return
        self._dispatch.on_message(worker_id, message)

    def _connect_new(self, state: PoolState) -> None:
        for worker in state.workers:
            if worker.endpoint and worker.worker_id not in self._workers:
                socket = sockets.dealer(self._context, worker.endpoint, self._id)
                self._workers[worker.worker_id] = socket
                reader = spawn_critical(self._read(worker.worker_id, socket))
                self._readers[worker.worker_id] = reader

    def _disconnect_gone(self, state: PoolState) -> None:
        for worker_id in set(self._workers) - {worker.worker_id for worker in state.workers}:
            self._readers.pop(worker_id).cancel()
            self._workers.pop(worker_id).close()

    # The coordinator

    async def _watch_state(self) -> None:
        while True:
            data = await self._updates.recv()
            try:
                state = STATE.decode(data)
            except DecodeError as error:
                log.warning("dropping a malformed pool state: %s", error)
                continue
            self._connect_new(state)
            self._state = self._dispatch.on_state(state)
            self._has_state.set()
            self._disconnect_gone(state)

    async def _handle_control(self) -> None:
        """Handle results and calls; greet a new coordinator and repeat pending calls."""
        self._say_hello()
        while True:
            data = await self._control.recv()
            with contextlib.suppress(DecodeError):
                message = to_frontend.CONTROL.decode(data)
                match message:
                    case PoolResult():
                        self._calls.on_result(message)
                    case FrontendCall():
                        self._execute(message)
                    case Introduce():
                        self._say_hello()
                        self._calls.repeat()
                    case _:
                        assert_never(message)

    def _execute(self, message: FrontendCall) -> None:
        """Execute a call and answer it, now or when its awaitable has the result."""
        result = self._handlers.execute(message.call)
        if not inspect.isawaitable(result):
            self._reply(message, result)
            return
        awaited = result

        async def reply_later() -> None:
            self._reply(message, await awaited)

        task = spawn_critical(reply_later())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reply(self, message: FrontendCall, result: AnyResult) -> None:
        self._send_to_coordinator(CallResult(message.call_id, self._id, result))

    async def _send_heartbeats(self) -> None:
        while True:
            self._dispatch.refresh()
            load = FrontendLoad(self._dispatch.in_flight, self._dispatch.held)
            self._send_to_coordinator(to_coordinator.FrontendHeartbeat(self._id, load))
            await asyncio.sleep(HEARTBEAT_S)

    def _request_wake_up(self, group: str) -> None:
        self._send_to_coordinator(to_coordinator.WakeRequest(group))

    def _say_hello(self) -> None:
        self._send_to_coordinator(
            to_coordinator.FrontendHello(PROTOCOL_VERSION, self._id, os.getpid())
        )

    def _send_to_coordinator(self, message: to_coordinator.ControlMessage) -> None:
        """Send a message; while the coordinator is away, what exceeds the queue is dropped."""
        sockets.send_now(self._control, to_coordinator.CONTROL.encode(message))
