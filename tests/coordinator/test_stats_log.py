"""The log's line of throughput, by lists of events and without a clock."""

from headrace.coordinator.stats_log import StatsLog
from headrace.protocol.state import READY, WorkerLoad, WorkerState
from headrace.protocol.to_coordinator import WorkerTotals

QUIET = WorkerLoad(0, 0, 0.0, 0, 0.0)


def worker(worker_id: str, load: WorkerLoad = QUIET) -> WorkerState:
    return WorkerState(worker_id, worker_id.rpartition("-")[0], 1, READY, "", load)


def test_one_line_says_what_all_workers_of_a_group_have_done() -> None:
    stats = StatsLog(["chat"], interval_s=10, now=0.0)
    for each in ("chat-0.0", "chat-1.0"):
        stats.on_totals(each, "chat", WorkerTotals(0, 0, 0, 0))
        stats.on_totals(each, "chat", WorkerTotals(300, 10, 400, 100))
        stats.on_totals(each, "chat", WorkerTotals(500, 60, 400, 100))
    workers = [
        worker("chat-0.0", WorkerLoad(3, 1, 0.5, 9, 0.1)),
        worker("chat-1.0", WorkerLoad(2, 0, 0.25, 9, 0.1)),
    ]
    assert stats.lines(workers, 9.9) == []
    assert stats.lines(workers, 10.0) == [
        "chat: Avg prompt throughput: 100.0 tokens/s, Avg generation throughput: 12.0 tokens/s, "
        "Running: 5 reqs, Waiting: 1 reqs, KV cache usage: 37.5%, Prefix cache hit rate: 25.0%"
    ]


def test_rest_is_told_once() -> None:
    stats = StatsLog(["chat"], interval_s=10, now=0.0)
    assert stats.lines([worker("chat-0.0")], 10.0) == []
    stats.on_totals("chat-0.0", "chat", WorkerTotals(0, 0, 0, 0))
    stats.on_totals("chat-0.0", "chat", WorkerTotals(10, 10, 0, 0))
    assert "generation throughput: 1.0" in stats.lines([worker("chat-0.0")], 20.0)[0]
    assert "generation throughput: 0.0" in stats.lines([worker("chat-0.0")], 30.0)[0]
    assert stats.lines([worker("chat-0.0")], 40.0) == []
    # A request that waits, and gets no token, is work.
    waiting = [worker("chat-0.0", WorkerLoad(0, 1, 0.0, 0, 5.0))]
    assert "Waiting: 1" in stats.lines(waiting, 50.0)[0]


def test_what_was_done_before_the_coordinator_came_is_not_counted() -> None:
    stats = StatsLog(["chat"], interval_s=10, now=100.0)
    stats.on_totals("chat-0.0", "chat", WorkerTotals(10**6, 10**6, 0, 0))
    stats.on_totals("chat-0.0", "chat", WorkerTotals(10**6, 10**6 + 20, 0, 0))
    (line,) = stats.lines([worker("chat-0.0")], 110.0)
    assert "generation throughput: 2.0 tokens/s" in line


def test_the_dead_and_their_followers_add_up() -> None:
    stats = StatsLog(["chat"], interval_s=10, now=0.0)
    for start in range(3):
        name = f"chat-0.{start}"
        stats.on_totals(name, "chat", WorkerTotals(0, 0, 0, 0))
        stats.on_totals(name, "chat", WorkerTotals(0, 100, 0, 0))
    (line,) = stats.lines([worker("chat-0.2")], 10.0)
    assert "generation throughput: 30.0 tokens/s" in line


def test_groups_have_a_line_each_and_only_while_they_work() -> None:
    stats = StatsLog(["chat", "small-1"], interval_s=10, now=0.0)
    stats.on_totals("small-1-0.0", "small-1", WorkerTotals(0, 0, 0, 0))
    stats.on_totals("small-1-0.0", "small-1", WorkerTotals(0, 7, 0, 0))
    stats.on_totals("other-0.0", "other", WorkerTotals(0, 7, 0, 0))
    (line,) = stats.lines([worker("chat-0.0"), worker("small-1-0.0")], 10.0)
    assert line.startswith("small-1: ")
