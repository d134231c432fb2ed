"""Metrics of a worker, under vLLM's names.

prometheus_client keeps the values in files of the run directory (its multiprocess mode), so that
any frontend can show the whole pool's, and counters survive the process.
"""

from collections.abc import Sequence
from itertools import zip_longest

from prometheus_client import Counter, Gauge, Histogram

from headrace.protocol.common.metrics.metric_space import keep_metrics_on_full_disks
from headrace.protocol.state import SLEEPING, WorkerLoad, WorkerStatus, engine_label
from headrace.workers.engine.replica_engine import CacheSize, EngineStats

_STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PREEMPTIONS = (0, 1, 2, 3, 5, 10, 20)
_REASONS = ("capacity", "deferred")
_SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")
_CACHE_LABELS = ("block_size", "num_gpu_blocks", "cache_dtype")


class WorkerMetrics:
    """model: the name in answers. worker_id: "chat-0.3" is the fourth start of slot chat-0."""

    def __init__(self, prefix: str, model: str, worker_id: str) -> None:
        keep_metrics_on_full_disks()
        names = ("model_name", "engine")
        labels = (model, engine_label(worker_id))

        def gauge(name: str, text: str) -> Gauge:
            whole = Gauge(prefix + name, text, names, multiprocess_mode="livesum")
            return whole.labels(*labels)

        def counter(name: str, text: str) -> Counter:
            return Counter(prefix + name, text, names).labels(*labels)

        self._running = gauge("num_requests_running", "Requests in the engine's batch.")
        self._waiting = gauge("num_requests_waiting", "Requests waiting to be run.")
        by_reason = Gauge(
            prefix + "num_requests_waiting_by_reason",
            "Waiting requests. capacity: for room; deferred: for a grammar or an adapter's turn.",
            (*names, "reason"), multiprocess_mode="livesum",
        )  # fmt: skip
        self._waiting_for = {reason: by_reason.labels(*labels, reason) for reason in _REASONS}
        self._usage = gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.")
        self._age_s = gauge("engine_step_age_seconds", "Since the last step; 0 without work.")
        self._queries = counter("prefix_cache_queries", "Prompt tokens looked up in the cache.")
        self._hits = counter("prefix_cache_hits", "Prompt tokens found in the cache.")
        self._preemptions = counter("num_preemptions", "Requests preempted and recomputed.")
        self._drafts = counter("spec_decode_num_drafts", "Drafts of tokens to come.")
        self._draft_tokens = counter("spec_decode_num_draft_tokens", "Tokens in drafts.")
        self._accepted_tokens = counter(
            "spec_decode_num_accepted_tokens", "Tokens of drafts that proved right."
        )
        self._step_tokens = Histogram(
            prefix + "iteration_tokens_total", "Tokens in an engine step.", names,
            buckets=_STEP_TOKENS,
        ).labels(*labels)  # fmt: skip
        self._step_s = Histogram(
            prefix + "engine_step_seconds", "Seconds of an engine step.", names, buckets=_STEP_S
        ).labels(*labels)
        self._request_preemptions = Histogram(
            prefix + "request_num_preemptions", "Preemptions of each request that has ended.",
            names, buckets=_PREEMPTIONS,
        ).labels(*labels)  # fmt: skip
        self._accepted_at = Counter(
            prefix + "spec_decode_num_accepted_tokens_per_pos",
            "Tokens of drafts that proved right, by their position in the draft.",
            (*names, "position"),
        )
        # Not sums: while a worker is replaced, two have its slot.
        sleeps = Gauge(
            prefix + "engine_sleep_state",
            "1 for how the engine sleeps: awake, weights_offloaded (level 1), discard_all (2).",
            (*names, "sleep_state"), multiprocess_mode="livemostrecent",
        )  # fmt: skip
        self._sleeps = {state: sleeps.labels(*labels, state) for state in _SLEEP_STATES}
        self._cache_info = Gauge(
            prefix + "cache_config_info", "1; the labels describe the K/V cache.",
            (*names, *_CACHE_LABELS), multiprocess_mode="livemostrecent",
        )  # fmt: skip
        self._start_s = Gauge(
            prefix + "worker_start_seconds", "Seconds of each phase of the worker's last start.",
            (*names, "phase"), multiprocess_mode="livemostrecent",
        )  # fmt: skip
        self._labels = labels
        self._last: EngineStats | None = None

    def started(self, seconds: dict[str, float]) -> None:
        """Set the seconds of each phase of the start, when the worker is ready."""
        for phase, value in seconds.items():
            self._start_s.labels(*self._labels, phase).set(value)

    def show_cache(self, cache: CacheSize) -> None:
        """Show the size of the K/V cache, when the worker is ready."""
        labels = *self._labels, str(cache.block_size), str(cache.num_blocks), cache.dtype
        self._cache_info.labels(*labels).set(1)

    def show_sleep(self, state: WorkerStatus, level: int) -> None:
        """Show whether the worker sleeps, with each heartbeat. level: of the sleep."""
        now = "awake"
        if state in SLEEPING:
            now = "weights_offloaded" if level < 2 else "discard_all"
        for sleep_state, gauge in self._sleeps.items():
            gauge.set(sleep_state == now)

    def load(self, load: WorkerLoad) -> None:
        """Set the load, with each heartbeat."""
        self._running.set(load.running)
        self._waiting.set(load.waiting)
        self._waiting_for["deferred"].set(load.deferred)
        self._waiting_for["capacity"].set(max(0, load.waiting - load.deferred))
        self._usage.set(load.kv_usage)
        self._age_s.set(load.step_age_s)

    def stepped(self, stats: EngineStats, step_s: float) -> None:
        """Count a step of the engine; all of `stats` but the last step's values are totals."""
        last = self._last
        self._queries.inc(stats.prefix_queried - (last.prefix_queried if last else 0))
        self._hits.inc(stats.cached_tokens - (last.cached_tokens if last else 0))
        self._preemptions.inc(stats.preemptions - (last.preemptions if last else 0))
        self._drafts.inc(stats.drafts - (last.drafts if last else 0))
        self._draft_tokens.inc(stats.draft_tokens - (last.draft_tokens if last else 0))
        self._accepted_tokens.inc(stats.accepted_tokens - (last.accepted_tokens if last else 0))
        self._count_accepted(stats.accepted_by_position, last.accepted_by_position if last else ())
        self._count_ended(stats.ended_by_preemptions, last.ended_by_preemptions if last else ())
        if stats.steps > (last.steps if last else 0):  # otherwise no step ran
            self._step_tokens.observe(stats.step_tokens)
            self._step_s.observe(step_s)
        self._last = stats

    def _count_accepted(self, totals: Sequence[int], before: Sequence[int]) -> None:
        if totals == before:
            return
        for position, (total, old) in enumerate(zip_longest(totals, before, fillvalue=0)):
            self._accepted_at.labels(*self._labels, str(position)).inc(total - old)

    def _count_ended(self, totals: Sequence[int], before: Sequence[int]) -> None:
        if totals == before:
            return
        for preemptions, (total, old) in enumerate(zip_longest(totals, before, fillvalue=0)):
            for _ in range(total - old):
                self._request_preemptions.observe(preemptions)
