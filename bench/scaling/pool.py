"""A day of a pool, second by second, with the coordinator's own policy.

Requests wait in one line, as routing by load makes it, and are spread evenly over the workers. All
requests of a worker advance at one rate, so that the end of each is known in tokens when it begins;
what ends in a second is what lies between two marks of tokens. A second then costs the same however
many requests there are.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.scaling.engines import QUANTUM, Engine
from headrace.coordinator.autoscale_policy import Observation, Policy

Floats = NDArray[np.float64]


@dataclass
class Day:
    """What was in each second. size: workers that there were to be; paid: that there were, ready or
    not, or going. begun: requests that got a place."""

    came: Floats
    size: Floats = field(init=False)
    ready: Floats = field(init=False)
    paid: Floats = field(init=False)
    begun: Floats = field(init=False)
    running: Floats = field(init=False)
    waiting: Floats = field(init=False)

    def __post_init__(self) -> None:
        for name in ("size", "ready", "paid", "begun", "running", "waiting"):
            setattr(self, name, np.zeros(len(self.came)))


class _Workers:
    """Those that are ready, start or go. With a start each second, some fail and begin again."""

    def __init__(self, engine: Engine, seconds: int, size: int, random: np.random.Generator):
        self._engine, self._random = engine, random
        horizon = seconds + int(10 * engine.start_s) + engine.drain_s + 10
        self._coming = np.zeros(horizon, dtype=int)
        self._leaving = np.zeros(horizon, dtype=int)  # paid for until then
        self.ready, self.starting, self.going = size, 0, 0

    def pass_second(self, now: int) -> None:
        self.ready += self._coming[now]
        self.starting -= self._coming[now]
        self.going -= self._leaving[now]

    def resize(self, size: int, now: int) -> int:
        """How many ready ones have been told to go. Those that are still to come go first."""
        more = size - self.ready - self.starting
        if more > 0:
            self._start(more, now)
        while more < 0 and self.starting:
            last = int(np.flatnonzero(self._coming)[-1])
            dropped = min(self._coming[last], -more)
            self._coming[last] -= dropped
            self.starting -= dropped
            more += dropped
        gone = max(0, -more)
        self.ready -= gone
        self.going += gone
        self._leaving[now + self._engine.drain_s] += gone
        return gone

    def _start(self, count: int, now: int) -> None:
        taken = self._random.uniform(0.8, 1.5, count) * self._engine.start_s
        failed = self._random.random(count) < self._engine.failing
        taken[failed] += self._random.uniform(0.8, 1.5, failed.sum()) * self._engine.start_s
        np.add.at(self._coming, now + np.maximum(1, taken.astype(int)), 1)
        self.starting += count


class _Requests:
    """Those that wait, and those that run; `leaving` of these in workers that go."""

    def __init__(self, engine: Engine, seconds: int):
        self._engine, self._lengths = engine, engine.lengths()
        steps = seconds / engine.step_s / QUANTUM
        self._ends = np.zeros(int(steps) + len(self._lengths) + 2)  # how many, by the mark
        self._mark = 0.0  # tokens of a request that has run all the time
        self.waiting = self.running = self.leaving = 0.0

    def begin(self, ready: int) -> float:
        """As many as find a place, and time for their prompts."""
        free = ready * self._engine.slots - (self.running - self.leaving)
        begun = max(0.0, min(self.waiting, free, ready * self._engine.starts_per_s()))
        self.waiting -= begun
        self.running += begun
        first = round(self._mark / QUANTUM) + 1
        self._ends[first : first + len(self._lengths)] += begun * self._lengths
        return begun

    def run(self, ready: int, begun: float) -> None:
        """For a second."""
        engine, here, first = self._engine, max(ready, 1e-9), int(self._mark / QUANTUM) + 1
        batch = min((self.running - self.leaving) / here, engine.slots)
        self._mark += engine.tokens_per_s(batch, begun / here)
        ended = float(self._ends[first : int(self._mark / QUANTUM) + 1].sum())
        if self.running > 0:
            self.leaving -= self.leaving * min(ended / self.running, 1.0)
        self.running = max(0.0, self.running - ended)


def play(
    came: Floats,
    engine: Engine,
    policy: Policy | None,
    size: int,
    line: float = 1.0,
    counts_running: bool = True,
    seed: int = 0,
) -> Day:
    """A day with a policy, or with a size that stays (None). line: what share of the requests that
    wait the policy is shown; counts_running: whether it is shown those that run."""
    day = Day(came)
    workers = _Workers(engine, len(came), size, np.random.default_rng(seed))
    requests = _Requests(engine, len(came))
    for now, arrived in enumerate(came):
        workers.pass_second(now)
        requests.waiting += arrived
        day.begun[now] = requests.begin(workers.ready)
        requests.run(workers.ready, day.begun[now])
        if policy is not None:
            here = requests.running - requests.leaving
            shown = line * requests.waiting + (here if counts_running else 0.0)
            size = policy.observe(Observation(now, size, round(shown))).size
            before = max(workers.ready, 1)
            requests.leaving += here * workers.resize(size, now) / before
        day.running[now], day.waiting[now] = requests.running, requests.waiting
        day.size[now], day.ready[now] = size, workers.ready
        day.paid[now] = workers.ready + workers.starting + workers.going
    return day
