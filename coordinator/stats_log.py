"""The periodic log line with throughput and load, in the format of vLLM's.

The coordinator writes it, so that a group has one line however many workers it has. Not one line
for the pool: a mean of the cache usages and hit rates of different models is meaningless.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from headrace.protocol.state import WorkerState
from headrace.protocol.to_coordinator import WorkerTotals

NOTHING = WorkerTotals(prompt_tokens=0, generated_tokens=0, prefix_queried=0, cached_tokens=0)


class StatsLog:
    """The log lines of all groups. `now`: seconds of a monotonic clock."""

    def __init__(self, groups: Sequence[str], interval_s: float, now: float) -> None:
        self._groups = {name: _Group(name) for name in groups}
        self._interval_s = interval_s
        self._since = now
        self._last: dict[str, WorkerTotals] = {}

    def on_totals(self, worker_id: str, group: str, totals: WorkerTotals) -> None:
        """Add a worker's totals since its start. The first ones only set the baseline: the
        coordinator may be younger than the worker."""
        last = self._last.get(worker_id, totals)
        self._last[worker_id] = totals
        if group in self._groups:
            self._groups[group].add(_difference(totals, last))

    def lines(self, workers: Sequence[WorkerState], now: float) -> list[str]:
        """Return the lines to log now: one for each group that had work since the last time, and a
        last one when it has become idle."""
        elapsed_s = now - self._since
        if elapsed_s < self._interval_s:
            return []
        self._since = now
        ids = {worker.worker_id for worker in workers}
        self._last = {each: totals for each, totals in self._last.items() if each in ids}
        by_group: defaultdict[str, list[WorkerState]] = defaultdict(list)
        for worker in workers:
            by_group[worker.group].append(worker)
        lines = (group.line(by_group[name], elapsed_s) for name, group in self._groups.items())
        return [line for line in lines if line]


class _Group:
    def __init__(self, name: str) -> None:
        self._name = name
        self._done = NOTHING
        self._hit_rate = 0.0
        self._was_busy = False

    def add(self, done: WorkerTotals) -> None:
        self._done = _sum(self._done, done)

    def line(self, workers: Sequence[WorkerState], elapsed_s: float) -> str:
        """Return the line; "" if there is nothing to report."""
        done, self._done = self._done, NOTHING
        running = sum(worker.load.running for worker in workers)
        waiting = sum(worker.load.waiting for worker in workers)
        usage = _mean(worker.load.kv_usage for worker in workers)
        if done.prefix_queried:
            self._hit_rate = done.cached_tokens / done.prefix_queried
        was_busy, self._was_busy = self._was_busy, done != NOTHING or running + waiting > 0
        if not (self._was_busy or was_busy):
            return ""
        return (
            f"{self._name}: Avg prompt throughput: {done.prompt_tokens / elapsed_s:.1f} tokens/s, "
            f"Avg generation throughput: {done.generated_tokens / elapsed_s:.1f} tokens/s, "
            f"Running: {running} reqs, Waiting: {waiting} reqs, "
            f"KV cache usage: {usage:.1%}, Prefix cache hit rate: {self._hit_rate:.1%}"
        )


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 0.0


def _sum(one: WorkerTotals, other: WorkerTotals) -> WorkerTotals:
    return WorkerTotals(
        one.prompt_tokens + other.prompt_tokens,
        one.generated_tokens + other.generated_tokens,
        one.prefix_queried + other.prefix_queried,
        one.cached_tokens + other.cached_tokens,
    )


def _difference(now: WorkerTotals, then: WorkerTotals) -> WorkerTotals:
    return WorkerTotals(
        now.prompt_tokens - then.prompt_tokens,
        now.generated_tokens - then.generated_tokens,
        now.prefix_queried - then.prefix_queried,
        now.cached_tokens - then.cached_tokens,
    )
