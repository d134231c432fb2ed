"""Schedule requests: closed loop (a number of users) or open loop (a Poisson process)."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from bench.load.prompts import Planned
from bench.load.records import Record

Send = Callable[[Planned], Awaitable[Record]]
MakeSession = Callable[[int], list[Planned]]


@dataclass(frozen=True, slots=True)
class Load:
    """One load.

    concurrency: requests in flight at once; None: `rate` requests start per second.
    requests, duration_s: when to stop starting requests; those in flight are finished.
    mean_turns: mean number of requests of a session.
    """

    concurrency: int | None = None
    rate: float | None = None
    requests: int | None = None
    duration_s: float | None = None
    mean_turns: float = 1.0
    seed: int = 0

    @property
    def label(self) -> str:
        """The name of the load in reports."""
        if self.concurrency is not None:
            return f"concurrency {self.concurrency}"
        return f"rate {self.rate:g}/s"


async def run(load: Load, make_session: MakeSession, send: Send) -> list[Record]:
    """Run the load; `make_session(i)` returns the requests of session i, sent one after another."""
    running = _Run(load, make_session, send)
    await (running.closed() if load.concurrency is not None else running.open())
    return running.records


class _Run:
    def __init__(self, load: Load, make_session: MakeSession, send: Send) -> None:
        self.records: list[Record] = []
        self._load, self._make_session, self._send = load, make_session, send
        self._started = 0
        self._next_session = 0
        self._start_s = time.monotonic()

    async def closed(self) -> None:
        """Run as many users as the concurrency, each with one request in flight."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._load.concurrency or 0):
                tasks.create_task(self._user())

    async def open(self) -> None:
        """Start sessions when they are due, however many are in flight."""
        async with asyncio.TaskGroup() as tasks:
            for due_s in arrivals(self._load):
                await asyncio.sleep(self._start_s + due_s - time.monotonic())
                if not self._may_start():
                    return
                tasks.create_task(self._converse())

    async def _user(self) -> None:
        while self._may_start():
            await self._converse()

    async def _converse(self) -> None:
        index, self._next_session = self._next_session, self._next_session + 1
        for planned in self._make_session(index):
            if not self._may_start():
                return
            self._started += 1
            self.records.append(await self._send(planned))

    def _may_start(self) -> bool:
        load = self._load
        if load.duration_s is not None and time.monotonic() - self._start_s >= load.duration_s:
            return False
        return load.requests is None or self._started < load.requests


def arrivals(load: Load) -> Iterator[float]:
    """Yield when sessions begin, in seconds from the start: an endless Poisson process."""
    rng = random.Random(f"{load.seed}/arrivals")
    due_s = 0.0
    while True:
        due_s += rng.expovariate((load.rate or 1.0) / load.mean_turns)
        yield due_s
