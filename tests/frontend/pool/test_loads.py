"""Several frontends that see each other's requests choose workers."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.frontend.pool.flight import Flight
from headrace.frontend.pool.interface import PoolError
from headrace.frontend.pool.shared_load import STARTS, SharedLoad
from headrace.protocol.state import READY, FrontendLoad, FrontendState, WorkerLoad
from headrace.protocol.to_frontend import FinishReason, Output
from tests.frontend.pool.dispatching import ADMISSION, IDLE, Wire, begin

WORKERS = ("g-0.0", "g-1.0", "g-2.0", "g-3.0")
Begun = tuple[Flight, "asyncio.Task[list[Output]]"]
BUSY = WorkerLoad(9, 0, 0.0, 0, 0.0)


@contextlib.contextmanager
def wires(count: int) -> Iterator[list[Wire]]:
    with TemporaryDirectory() as folder:
        shared = [SharedLoad(Path(folder), f"frontend-{number}.0") for number in range(count)]
        made = [Wire(each) for each in shared]
        for wire in made:
            news(wire, count)
        yield made
        for each in shared:
            each.close()


def news(wire: Wire, frontends: int, loads: dict[str, WorkerLoad] | None = None) -> None:
    state = wire.state(loads, **dict.fromkeys(WORKERS, READY))
    named = (FrontendState(f"frontend-{n}.0", 1, FrontendLoad(0)) for n in range(frontends))
    wire.dispatch.on_state(replace(state, frontends=tuple(named)))


def carried(wires: list[Wire], worker_id: str) -> int:
    return sum(len(wire.dispatch.carried_by(worker_id)) for wire in wires)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=64))
async def test_requests_that_come_to_any_frontend_are_spread_evenly(order: list[int]) -> None:
    with wires(4) as made:
        begun = []
        for number, index in enumerate(order):
            begun.append(await begin(made[index], f"r{number}"))
            loads = [carried(made, worker_id) for worker_id in WORKERS]
            assert max(loads) - min(loads) <= 1
        await end(begun)


async def test_heartbeats_count_only_for_frontends_that_are_not_seen() -> None:
    with wires(2) as (one, _):
        news(one, 2, {"g-0.0": BUSY})
        begun = [await begin(one, f"r{number}") for number in range(4)]
        assert Counter(worker for worker, _ in one.sent) == Counter(WORKERS)
        news(one, 3, {"g-0.0": BUSY})
        begun += [await begin(one, f"r{number}") for number in range(4, 10)]
        assert Counter(worker for worker, _ in one.sent)["g-0.0"] == 1
        await end(begun)


async def end(begun: list[Begun]) -> None:
    for flight, task in begun:
        flight.cancel()
        with contextlib.suppress(PoolError):
            await task


STEPS = st.sampled_from(["begin", "answer", "finish", "cancel", "refuse", "gap", "die", "full"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STEPS, st.integers(0, 1), st.integers(0, 3)), max_size=40))
async def test_whatever_becomes_of_requests_each_is_counted_once_and_none_for_ever(
    steps: list[tuple[str, int, int]],
) -> None:
    with TemporaryDirectory() as folder:
        shared = [SharedLoad(Path(folder), f"frontend-{number}.0") for number in range(2)]
        views = [SharedLoad(Path(folder), "watching"), *shared]
        pools = [_Pool(Wire(each)) for each in shared]
        for number, (step, frontend, worker) in enumerate(steps):
            await pools[frontend].take(step, worker, f"r{number}")
            for view in views:
                view.refresh()
            for worker_id in {name for pool in pools for name in pool.names}:
                expected = carried([pool.wire for pool in pools], worker_id)
                assert [view.in_flight(worker_id) for view in views] == [expected] * 3
        for pool in pools:
            await pool.end()
        files = (Path(folder) / "workers").iterdir()
        assert not any(any(memoryview(file.read_bytes()).cast("q")) for file in files)
        for view in views:
            view.close()


class _Pool:
    """One frontend and what happens to its requests. A worker that dies starts again."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._starts = [0, 0, 0, 0]
        self._begun: list[Begun] = []
        self._tell()

    @property
    def names(self) -> list[str]:
        return [f"g-{place}.{start}" for place, start in enumerate(self._starts)]

    def _tell(self) -> None:
        self.wire.state(dict.fromkeys(self.names, IDLE), **dict.fromkeys(self.names, READY))

    async def take(self, step: str, place: int, request_id: str) -> None:
        name = self.names[place]
        running = self.wire.running(name)
        match step:
            case "begin":
                self._begun.append(await begin(self.wire, request_id))
            # Not so often that a start takes the cells of one that the other frontend still counts.
            case "die" if self._starts[place] < STARTS - 1:
                self._starts[place] += 1
                self._tell()
            case "gap":
                self.wire.lose(name)
                self.wire.answer(name)
            case "full":
                self.wire.full ^= {name}
            case "cancel" if self._begun:
                self._begun[place % len(self._begun)][0].cancel()
            case "refuse" if running:
                self.wire.refuse(name, running[0])
            case "answer" | "finish" if running:
                self._answer(name, running[0], "stop" if step == "finish" else None)
        await asyncio.sleep(0)

    def _answer(self, name: str, request_id: str, reason: FinishReason | None) -> None:
        flight = next(each for each, _ in self._begun if each.wire_id == request_id)
        output = Output(request_id, (5,), flight.tokens_so_far, reason, admission=ADMISSION)
        self.wire.answer(name, output)

    async def end(self) -> None:
        await end(self._begun)
        assert self.wire.dispatch.in_flight == 0
