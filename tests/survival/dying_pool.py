"""A pool whose workers are engines in this process, none of which lives for long."""

import asyncio
import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from headrace.frontend.pool.assemble import assemble_dispatch
from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import LiveLoad, PoolBusy
from headrace.protocol.state import (
    READY,
    AdapterState,
    GroupState,
    PoolState,
    WorkerLoad,
    WorkerState,
)
from headrace.protocol.to_frontend import Output, Rejected, StepOutputs
from headrace.protocol.to_worker import Abort, Encode, EngineRequest, Generate
from headrace.workers.engine.engine import Engine
from headrace.workers.errors import RejectedByEngine
from tests.chaos.models import ADAPTER

GROUP = "main"
ADAPTER_ID = "1f"  # of the only adapter, which all engines have
WORKERS = 2
_IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)


@dataclass
class _Worker:
    """steps_left: how many more it makes; None: any number. number: of its next message.
    has_lost_one: and not sent a message since."""

    engine: Engine
    steps_left: int | None
    number: int = 0
    has_lost_one: bool = False
    arrived: list[EngineRequest | Abort] = field(default_factory=list)

    @property
    def has_work(self) -> bool:
        return bool(self.arrived) or self.engine.has_work or self.has_lost_one

    def next_number(self) -> int:
        self.number += 1
        return self.number - 1


class DyingPool:
    """Some engines at a time. Each makes as many steps as `life` says and dies, with or
    without the outputs of its last step, or loses one message and lives on.

    make_engine: makes the engine of each slot. life: None: workers live for ever.
    """

    def __init__(
        self,
        make_engine: Callable[[int], Engine],
        rng: random.Random,
        life: Callable[[random.Random], int] | None,
    ) -> None:
        self._make_engine, self._rng, self._life = make_engine, rng, life
        self._dispatch = assemble_dispatch(self._send, max_replays=1_000_000, on_replay=self._count)
        self._versions = itertools.count()
        self._starts: defaultdict[int, int] = defaultdict(int)
        self._workers: dict[str, _Worker] = {}
        self._has_work = asyncio.Event()
        self.replays = 0
        for slot in range(WORKERS):
            self._start(slot)
        self._publish()

    @property
    def state(self) -> PoolState:
        return self._state

    @property
    def in_flight(self) -> int:
        return self._dispatch.in_flight

    def generate(self, group: str, request: Generate) -> Flight:
        return self._dispatch.submit(group, request)

    def encode(self, group: str, request: Encode) -> Flight:
        return self._dispatch.submit(group, request)

    def live_load(self) -> LiveLoad:
        return LiveLoad()

    def why_busy(self) -> PoolBusy | None:
        return None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()

    async def _run(self) -> None:
        while True:
            for worker_id, worker in list(self._workers.items()):
                self._step(worker_id, worker)
            if not any(worker.has_work for worker in self._workers.values()):
                self._has_work.clear()
                await self._has_work.wait()
            await asyncio.sleep(0)

    def _step(self, worker_id: str, worker: _Worker) -> None:
        for message in worker.arrived:
            self._execute(worker_id, worker, message)
        worker.arrived.clear()
        if not worker.engine.has_work:
            if worker.has_lost_one:  # workers always let something follow
                self._deliver(worker_id, worker, [])
            return
        outputs = worker.engine.step()
        if worker.steps_left is None or worker.steps_left > 0:
            self._deliver(worker_id, worker, outputs)
        if worker.steps_left is not None:
            worker.steps_left -= 1
            if worker.steps_left < 0:
                self._strike(worker_id, worker, outputs)

    def _strike(self, worker_id: str, worker: _Worker, outputs: list[Output]) -> None:
        kind = self._rng.choice(["before it sends", "after it has sent", "a message is lost"])
        if kind == "after it has sent":
            self._deliver(worker_id, worker, outputs)
        if kind == "a message is lost":
            worker.next_number()
            worker.has_lost_one = True
            worker.steps_left = self._life(self._rng) if self._life else None
        else:
            del self._workers[worker_id]
            self._start(int(worker_id.partition(".")[0].rpartition("-")[2]))
            self._publish()

    def _execute(self, worker_id: str, worker: _Worker, message: EngineRequest | Abort) -> None:
        if isinstance(message, Abort):
            for request_id in message.request_ids:
                worker.engine.abort(request_id)
            return
        try:
            worker.engine.add(message)
        except RejectedByEngine as rejection:
            fields = (message.request_id, rejection.reason, rejection.retry_elsewhere, 0.0)
            self._dispatch.on_message(worker_id, Rejected(worker_id, worker.next_number(), *fields))
            return
        if message.is_replay:
            taken = Output(message.request_id, (), len(message.output_token_ids))
            self._deliver(worker_id, worker, [taken])

    def _deliver(self, worker_id: str, worker: _Worker, outputs: list[Output]) -> None:
        worker.has_lost_one = False
        message = StepOutputs(worker_id, worker.next_number(), tuple(outputs))
        self._dispatch.on_message(worker_id, message)

    def _send(self, worker_id: str, message: EngineRequest | Abort) -> bool:
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.arrived.append(message)
            self._has_work.set()
        return worker is not None

    def _start(self, slot: int) -> None:
        worker_id = f"{GROUP}-{slot}.{self._starts[slot]}"
        self._starts[slot] += 1
        life = None if self._life is None else self._life(self._rng)
        self._workers[worker_id] = _Worker(self._make_engine(slot), life)

    def _publish(self) -> None:
        workers = tuple(
            WorkerState(name, GROUP, 1, READY, f"ipc://{name}", _IDLE, adapters=(ADAPTER_ID,))
            for name in self._workers
        )
        adapter = AdapterState(ADAPTER, ADAPTER_ID, ADAPTER)
        group = GroupState(GROUP, len(workers), "", adapters=(adapter,))
        state = PoolState("epoch", next(self._versions), (group,), workers, ())
        self._state = self._dispatch.on_state(state)

    def _count(self, group: str, worker_id: str) -> None:
        self.replays += 1
