"""Simulate a day of a pool, second by second, with the coordinator's own policy.

Requests wait in one queue, as routing by load makes it, and are spread evenly over the workers. All
requests advance at one rate, so the end of each is known in tokens when it starts; those that end
in a second lie between two positions in tokens. A second then costs the same however many requests
there are.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.scaling.engines import QUANTUM, Engine
from headrace.coordinator.autoscaling.autoscale_policy import Observation, Policy

Floats = NDArray[np.float64]


@dataclass
class Day:
    """The events of each second.

    came: requests that arrived. begun: requests that got a slot.
    size: the target size. paid: workers that are ready, starting or draining.
    """

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
    """The workers that are ready, starting or draining; some starts fail and are repeated."""

    def __init__(self, engine: Engine, seconds: int, size: int, random: np.random.Generator):
        self._engine, self._random = engine, random
        horizon = seconds + int(10 * engine.start_s) + engine.drain_s + 10
        self._ready_at = np.zeros(horizon, dtype=int)
        self._gone_at = np.zeros(horizon, dtype=int)  # paid for until then
        self.ready, self.starting, self.draining = size, 0, 0

    def pass_second(self, now: int) -> None:
        """Let the workers of this second become ready, or end."""
        self.ready += self._ready_at[now]
        self.starting -= self._ready_at[now]
        self.draining -= self._gone_at[now]

    def resize(self, size: int, now: int) -> int:
        """Start or drain workers, starting ones first; return how many ready ones drain."""
        more = size - self.ready - self.starting
        if more > 0:
            self._start(more, now)
        while more < 0 and self.starting:
            last = int(np.flatnonzero(self._ready_at)[-1])
            dropped = min(self._ready_at[last], -more)
            self._ready_at[last] -= dropped
            self.starting -= dropped
            more += dropped
        gone = max(0, -more)
        self.ready -= gone
        self.draining += gone
        self._gone_at[now + self._engine.drain_s] += gone
        return gone

    def _start(self, count: int, now: int) -> None:
        start_s = self._random.uniform(0.8, 1.5, count) * self._engine.start_s
        failed = self._random.random(count) < self._engine.failing
        start_s[failed] += self._random.uniform(0.8, 1.5, failed.sum()) * self._engine.start_s
        np.add.at(self._ready_at, now + np.maximum(1, start_s.astype(int)), 1)
        self.starting += count


class _Requests:
    """The requests that wait and run; `draining`: those that run in draining workers."""

    def __init__(self, engine: Engine, seconds: int):
        self._engine, self._lengths = engine, engine.lengths()
        steps = seconds / engine.step_s / QUANTUM
        self._ends = np.zeros(int(steps) + len(self._lengths) + 2)  # how many end, by position
        self._position = 0.0  # tokens of a request that has run all the time
        self.waiting = self.running = self.draining = 0.0

    def begin(self, ready: int) -> float:
        """Start as many requests as find a slot and time for their prompts; return how many."""
        free = ready * self._engine.slots - (self.running - self.draining)
        begun = max(0.0, min(self.waiting, free, ready * self._engine.starts_per_s()))
        self.waiting -= begun
        self.running += begun
        first = round(self._position / QUANTUM) + 1
        self._ends[first : first + len(self._lengths)] += begun * self._lengths
        return begun

    def run(self, ready: int, begun: float) -> None:
        """Run all requests for a second."""
        engine, workers, first = self._engine, max(ready, 1e-9), int(self._position / QUANTUM) + 1
        batch = min((self.running - self.draining) / workers, engine.slots)
        self._position += engine.tokens_per_s(batch, begun / workers)
        ended = float(self._ends[first : int(self._position / QUANTUM) + 1].sum())
        if self.running > 0:
            self.draining -= self.draining * min(ended / self.running, 1.0)
        self.running = max(0.0, self.running - ended)


def play(
    came: Floats,
    engine: Engine,
    policy: Policy | None,
    size: int,
    queue_share: float = 1.0,
    counts_running: bool = True,
    seed: int = 0,
) -> Day:
    """Simulate a day with a policy, or with a fixed size (None).

    queue_share: what share of the waiting requests the policy sees.
    counts_running: whether it sees those that run.
    """
    day = Day(came)
    workers = _Workers(engine, len(came), size, np.random.default_rng(seed))
    requests = _Requests(engine, len(came))
    for now, arrived in enumerate(came):
        workers.pass_second(now)
        requests.waiting += arrived
        day.begun[now] = requests.begin(workers.ready)
        requests.run(workers.ready, day.begun[now])
        if policy is not None:
            settled = requests.running - requests.draining
            seen = queue_share * requests.waiting + (settled if counts_running else 0.0)
            size = policy.observe(Observation(now, size, round(seen))).size
            before = max(workers.ready, 1)
            requests.draining += settled * workers.resize(size, now) / before
        day.running[now], day.waiting[now] = requests.running, requests.waiting
        day.size[now], day.ready[now] = size, workers.ready
        day.paid[now] = workers.ready + workers.starting + workers.draining
    return day
