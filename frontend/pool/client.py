"""The sockets of a frontend: data to and from each worker, control, and the pool's state."""

import asyncio
import contextlib
import inspect
import json
import logging
import os
from collections.abc import Callable
from typing import Any, Self, assert_never

import zmq.asyncio

from headrace.frontend.critical_task import create_vital_task
from headrace.frontend.pool.calls import Calls
from headrace.frontend.pool.dispatch import Dispatch
from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import PoolBusy, Scope
from headrace.frontend.pool.shared_load import open_shared_load
from headrace.protocol import PROTOCOL_VERSION, sockets, to_coordinator, to_frontend, to_worker
from headrace.protocol.codec import DecodeError
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import STATE, FrontendLoad, PoolState
from headrace.protocol.to_coordinator import CallResult
from headrace.protocol.to_frontend import FrontendCall, PoolResult
from headrace.protocol.to_worker import Generate, Introduce, RequestMessage

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.25
# Messages of one worker that are taken before the streams get their turn.
MESSAGES_AT_ONCE = 64


class PoolClient:
    """The Pool of a real frontend; `async with` it for as long as requests are served.

    on_replay: told the group of each request that is sent again.
    methods: what all frontends can be called to do, by name; arguments and values are JSON. One
        that gives an awaitable is answered when that has a value.
    """

    def __init__(
        self, config: PoolConfig, frontend_id: str, on_replay: Callable[[str], None]
    ) -> None:
        self._config, self._id = config, frontend_id
        self._context = zmq.asyncio.Context()
        shared = open_shared_load(config.run_dir / "load", frontend_id)
        self._dispatch = Dispatch(
            self._send,
            config.max_replays,
            on_replay=on_replay,
            shared=shared,
            wake=self._wake if config.wake_on_demand else None,
            wake_timeout_s=config.wake_timeout_s,
            reject_while_scaling=config.reject_while_scaling,
        )
        self._calls = Calls(frontend_id, self._tell)
        self._state: PoolState | None = None
        self._has_news = asyncio.Event()
        self._workers: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: dict[str, asyncio.Task[None]] = {}
        self.methods: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.malformed = 0

    @property
    def state(self) -> PoolState | None:
        return self._state

    @property
    def in_flight(self) -> int:
        return self._dispatch.in_flight

    async def first_news(self, timeout_s: float) -> None:
        """Wait until the state is known, or for so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._has_news.wait(), timeout_s)

    def generate(self, group: str, request: Generate) -> Flight:
        return self._dispatch.generate(group, request)

    def why_busy(self) -> PoolBusy | None:
        return self._dispatch.why_busy()

    async def call(
        self, method: str, arguments: dict[str, Any], scope: Scope, timeout_s: float
    ) -> PoolResult:
        return await self._calls.call(method, arguments, scope, timeout_s)

    async def __aenter__(self) -> Self:
        run_dir = self._config.run_dir
        self._control = sockets.dealer(self._context, sockets.control_endpoint(run_dir), self._id)
        self._updates = sockets.subscriber(self._context, sockets.state_endpoint(run_dir))
        for work in (self._watch_state(), self._obey(), self._beat()):
            self._tasks.add(create_vital_task(work))
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
        """All that a worker sends, for as long as it is in the pool."""
        arrived = sockets.Arrived(socket)
        while True:
            self._take(worker_id, await socket.recv())
            for data in arrived.take(MESSAGES_AT_ONCE):
                self._take(worker_id, data)
            await asyncio.sleep(0)  # so that streams go on while one worker after another sends

    def _take(self, worker_id: str, data: bytes) -> None:
        try:
            message = to_frontend.OUTPUTS.decode(data)
        except DecodeError as error:
            self.malformed += 1
            log.warning("dropped a malformed message from %s: %s", worker_id, error)
            return
        self._dispatch.on_message(worker_id, message)

    def _connect_new(self, state: PoolState) -> None:
        for worker in state.workers:
            if worker.endpoint and worker.worker_id not in self._workers:
                socket = sockets.dealer(self._context, worker.endpoint, self._id)
                self._workers[worker.worker_id] = socket
                reader = create_vital_task(self._read(worker.worker_id, socket))
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
                log.warning("dropped a malformed state: %s", error)
                continue
            self._connect_new(state)
            self._state = self._dispatch.on_state(state)
            self._has_news.set()
            self._disconnect_gone(state)

    async def _obey(self) -> None:
        """The coordinator says what came of calls; or that it is new, and knows of none."""
        self._say_hello()
        while True:
            data = await self._control.recv()
            with contextlib.suppress(DecodeError):
                message = to_frontend.CONTROL.decode(data)
                match message:
                    case PoolResult():
                        self._calls.on_result(message)
                    case FrontendCall():
                        self._answer(message)
                    case Introduce():
                        self._say_hello()
                        self._calls.repeat()
                    case _:
                        assert_never(message)

    def _answer(self, call: FrontendCall) -> None:
        try:
            value = self.methods[call.method](json.loads(call.arguments))
        except (KeyError, ValueError, TypeError):
            self._tell(CallResult(call.call_id, self._id, "", "it does not know how"))
            return
        if not inspect.isawaitable(value):
            self._tell(CallResult(call.call_id, self._id, json.dumps(value)))
            return

        async def answer_later() -> None:
            self._tell(CallResult(call.call_id, self._id, json.dumps(await value)))

        task = create_vital_task(answer_later())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _beat(self) -> None:
        while True:
            self._dispatch.beat()
            load = FrontendLoad(self._dispatch.in_flight, self._dispatch.held)
            self._tell(to_coordinator.FrontendHeartbeat(self._id, load))
            await asyncio.sleep(HEARTBEAT_S)

    def _wake(self, group: str) -> None:
        self._tell(to_coordinator.WakeWanted(group))

    def _say_hello(self) -> None:
        self._tell(to_coordinator.FrontendHello(PROTOCOL_VERSION, self._id, os.getpid()))

    def _tell(self, message: to_coordinator.ControlMessage) -> None:
        """To the coordinator; while it is away, what does not fit its queue is not missed."""
        sockets.send_now(self._control, to_coordinator.CONTROL.encode(message))
