"""Metrics of a worker, under vLLM's names.

prometheus_client keeps the values in files of the run directory (its multiprocess mode), so that
any frontend can show the whole pool's, and counters survive the process.
"""

from prometheus_client import Counter, Gauge, Histogram

from headrace.protocol.state import WorkerLoad
from headrace.workers.engine.engine import EngineStats

_STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class WorkerMetrics:
    """model: the name in answers. worker_id: "chat-0.3" is the fourth start of slot chat-0."""

    def __init__(self, prefix: str, model: str, worker_id: str) -> None:
        names = ("model_name", "engine")
        labels = (model, engine_label(worker_id))

        def gauge(name: str, text: str) -> Gauge:
            whole = Gauge(prefix + name, text, names, multiprocess_mode="livesum")
            return whole.labels(*labels)

        def counter(name: str, text: str) -> Counter:
            return Counter(prefix + name, text, names).labels(*labels)

        self._running = gauge("num_requests_running", "Requests in the engine's batch.")
        self._waiting = gauge("num_requests_waiting", "Requests waiting to be run.")
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
        # Not a sum: while a worker is replaced, two have its slot.
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

    def load(self, load: WorkerLoad) -> None:
        """Set the load, with each heartbeat."""
        self._running.set(load.running)
        self._waiting.set(load.waiting)
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
        if stats.steps > (last.steps if last else 0):  # otherwise no step ran
            self._step_tokens.observe(stats.step_tokens)
            self._step_s.observe(step_s)
        self._last = stats


def engine_label(worker_id: str) -> str:
    """Return the number of the worker's replica slot: "0" of "chat-0.3"."""
    return worker_id.rpartition("-")[2].partition(".")[0]
