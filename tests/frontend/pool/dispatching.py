"""A dispatch without sockets: what it has sent, and workers that answer it."""

import asyncio
from typing import cast

from headrace.frontend.pool.assemble import assemble_dispatch
from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.shared_load import SharedLoad
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.state import GroupState, PoolState, WorkerLoad, WorkerState, WorkerStatus
from headrace.protocol.to_frontend import Admission, Output, Rejected, StepOutputs
from headrace.protocol.to_worker import Abort, EngineRequest, Generate

IDLE = WorkerLoad(0, 0, 0.0, 0, 0.0)
ADMISSION = Admission(cached_tokens=0, queue_s=0.0, prefill_s=0.0)


class Wire:
    """What a dispatch has sent, and numbered answers to it."""

    def __init__(self, shared: SharedLoad | None = None) -> None:
        self.sent: list[tuple[str, EngineRequest | Abort]] = []
        self.full: set[str] = set()
        self.dead: set[str] = set()  # workers of which the frontend does not know it yet
        self._arriving: list[tuple[str, EngineRequest]] = []
        self.now = 0.0
        self.groups: tuple[GroupState, ...] = ()
        self.replayed: list[str] = []
        self.dispatch = assemble_dispatch(
            self._send,
            clock=lambda: self.now,
            on_replay=lambda group, worker_id: self.replayed.append(group),
            shared=shared,
        )
        self.paused: set[str] = set()
        self.adapters: dict[str, tuple[str, ...]] = {}  # of workers
        self._numbers: dict[str, int] = {}
        self._version = 0

    def _send(self, worker_id: str, message: EngineRequest | Abort) -> bool:
        if worker_id in self.full:
            return False
        self.sent.append((worker_id, message))
        if not isinstance(message, Abort) and message.is_replay:
            self._arriving.append((worker_id, message))
        return True

    def _arrive(self) -> None:
        """Living workers say of replays that they have them, before they do anything else."""
        arriving, self._arriving = self._arriving, []
        for worker_id, replay in arriving:
            if worker_id not in self.dead:
                taken = Output(replay.request_id, (), len(replay.output_token_ids))
                self._deliver(worker_id, taken)

    def _deliver(self, worker_id: str, *outputs: Output) -> None:
        self.dispatch.on_message(worker_id, StepOutputs(worker_id, self._next(worker_id), outputs))

    def state(self, load: dict[str, WorkerLoad] | None = None, /, **workers: str) -> PoolState:
        self._arrive()
        self._version += 1
        loads = load or {}
        pool = PoolState(
            "e",
            self._version,
            self.groups,
            tuple(
                WorkerState(
                    name,
                    "g",
                    1,
                    cast(WorkerStatus, state),
                    f"ipc://{name}",
                    loads.get(name, IDLE),
                    adapters=self.adapters.get(name, ()),
                    is_paused=name in self.paused,
                )
                for name, state in workers.items()
            ),
            (),
        )
        return self.dispatch.on_state(pool)

    def answer(self, worker_id: str, *outputs: Output) -> None:
        self._arrive()
        self._deliver(worker_id, *outputs)

    def refuse(
        self,
        worker_id: str,
        request_id: str,
        retry_elsewhere: bool = True,
        retry_after_s: float = 0.0,
        reason: str = "no room",
    ) -> None:
        self._arriving = [each for each in self._arriving if each[1].request_id != request_id]
        number = self._next(worker_id)
        refused = Rejected(worker_id, number, request_id, reason, retry_elsewhere, retry_after_s)
        self.dispatch.on_message(worker_id, refused)

    def lose(self, worker_id: str) -> None:
        """A message that never arrives."""
        self._next(worker_id)

    def _next(self, worker_id: str) -> int:
        number = self._numbers.get(worker_id, 0)
        self._numbers[worker_id] = number + 1
        return number

    def running(self, worker_id: str) -> list[str]:
        """The requests that a worker has been sent and neither ended nor lost."""
        return [
            message.request_id
            for worker, message in self.sent
            if worker == worker_id
            and isinstance(message, Generate)
            and message.request_id in self.dispatch.carried_by(worker_id)
        ]

    def where(self, request_id: str) -> str:
        """The worker that the request was sent to last."""
        return next(
            worker
            for worker, message in reversed(self.sent)
            if not isinstance(message, Abort) and message.request_id.partition("+")[0] == request_id
        )


def request(request_id: str, prompt: tuple[int, ...] = (1, 2), adapter: str = "") -> Generate:
    sampling = SamplingParams(seed=1, max_tokens=9)
    return Generate(request_id, prompt, sampling, adapter=adapter)


async def begin(
    wire: Wire, request_id: str = "r", adapter: str = ""
) -> tuple[Flight, "asyncio.Task[list[Output]]"]:
    flight = wire.dispatch.submit("g", request(request_id, adapter=adapter))

    async def read() -> list[Output]:
        return [output async for output in flight]

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    return flight, task
