"""What a frontend counts, under the names that dashboards for vLLM know.

With PROMETHEUS_MULTIPROC_DIR set, the numbers of all processes lie in that folder and any frontend
shows their sums; without it (one process, tests) they are this process's own.
"""

import glob
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from protocol.config import PoolConfig
from protocol.to_frontend import Admission

# fmt: off
FIRST_TOKEN_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)
TOKEN_BUCKETS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)
REQUEST_BUCKETS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)
# fmt: on
TOKEN_COUNT_BUCKETS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))
N_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0)

_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestObserver(Protocol):
    """Hooks into the life of one generated text; the request path knows no more of metrics."""

    def output(self, tokens: int, admission: Admission | None) -> None:
        """Some tokens have come; admission with the first of them."""
        ...

    def finish(self, reason: str) -> None:
        """The text has ended: "stop", "length", "abort" or "error"."""
        ...


class Metrics:
    """All metrics of a frontend, their names beginning with the configured prefix ("headrace:").

    Those of HTTP have none, as in the reference.
    """

    def __init__(self, config: PoolConfig) -> None:
        prefix = config.metrics_prefix
        self._multiprocess_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._registry = CollectorRegistry()
        self.models = _ModelMetrics(prefix, self._registry)
        self._in_flight_name = f"{prefix}server_load"
        self._in_flight = Gauge(
            self._in_flight_name,
            "Requests for text that are being answered.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._http_requests = Counter(
            "http_requests_total",
            "HTTP requests.",
            ("handler", "method", "status"),
            registry=self._registry,
        )
        self._http_duration = Histogram(
            "http_request_duration_seconds",
            "Seconds from an HTTP request's arrival to the end of its answer.",
            ("handler", "method"),
            registry=self._registry,
        )

    def request(
        self,
        model_name: str,
        prompt_tokens: int,
        n: int,
        max_tokens: int,
        longest: "LongestOutput | None" = None,
    ) -> RequestObserver:
        """An observer for one text; its clock starts now. longest: what the texts of one prompt
        share; None if there is but this one."""
        longest = longest or self.longest_output(model_name, 1)
        return _Observer(self.models, model_name, prompt_tokens, n, max_tokens, longest)

    def longest_output(self, model_name: str, texts: int) -> "LongestOutput":
        """To be shared by the observers of so many texts."""
        return LongestOutput(self.models.max_generation_tokens.labels(model_name), texts)

    def http_request(self, handler: str, method: str, status: int, duration_s: float) -> None:
        """An HTTP request has been answered. handler: the route's rule, never the path itself."""
        method = method if method in _KNOWN_METHODS else "OTHER"
        self._http_requests.labels(handler, method, f"{status // 100}xx").inc()
        self._http_duration.labels(handler, method).observe(duration_s)

    def enter(self) -> None:
        """A request for text is in flight; `leave` when it no longer is."""
        self._in_flight.inc()

    def leave(self) -> None:
        self._in_flight.dec()

    def in_flight(self) -> int:
        """Requests in flight in the whole pool. Reads files."""
        if self._multiprocess_dir is None:
            return _sum_of(self._in_flight_name, self._registry.collect())
        files = [
            path
            for path in glob.glob(f"{self._multiprocess_dir}/gauge_livesum_*.db")
            if _is_alive(path)
        ]
        return _sum_of(self._in_flight_name, _merge(files))

    def exposition(self) -> bytes:
        """All metrics of the pool in Prometheus' text format. Reads files."""
        if self._multiprocess_dir is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._multiprocess_dir)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class _ModelMetrics:
    """The metrics that have a model's name as their label."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._prefix = prefix
        self._registry = registry
        tokens, request_s = TOKEN_COUNT_BUCKETS, REQUEST_BUCKETS_S
        self.success = Counter(
            f"{prefix}request_success_total",
            "Requests that have ended, by reason.",
            ("model_name", "finished_reason"),
            registry=registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens_total", "Tokens of prompts.")
        self.generation_tokens = self._counter("generation_tokens_total", "Tokens generated.")
        self.first_token_s = self._histogram("time_to_first_token_seconds", FIRST_TOKEN_BUCKETS_S)
        self.inter_token_s = self._histogram("inter_token_latency_seconds", TOKEN_BUCKETS_S)
        self.per_token_s = self._histogram("request_time_per_output_token_seconds", TOKEN_BUCKETS_S)
        self.e2e_s = self._histogram("e2e_request_latency_seconds", request_s)
        self.queue_s = self._histogram("request_queue_time_seconds", request_s)
        self.prefill_s = self._histogram("request_prefill_time_seconds", request_s)
        self.decode_s = self._histogram("request_decode_time_seconds", request_s)
        self.inference_s = self._histogram("request_inference_time_seconds", request_s)
        self.request_prompt_tokens = self._histogram("request_prompt_tokens", tokens)
        self.request_generation_tokens = self._histogram("request_generation_tokens", tokens)
        self.max_generation_tokens = self._histogram("request_max_num_generation_tokens", tokens)
        self.params_max_tokens = self._histogram("request_params_max_tokens", tokens)
        self.params_n = self._histogram("request_params_n", N_BUCKETS)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"{self._prefix}{name}", text, ("model_name",), registry=self._registry)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(
            f"{self._prefix}{name}",
            f"{name.replace('_', ' ').capitalize()}.",
            ("model_name",),
            buckets=buckets,
            registry=self._registry,
        )


class LongestOutput:
    """The most tokens that any text of one prompt has, told when the last of them has ended."""

    def __init__(self, histogram: Histogram, texts: int) -> None:
        self._histogram = histogram
        self._unfinished = texts
        self._tokens = 0

    def ended(self, tokens: int) -> None:
        """One of the texts has ended, with so many tokens; 0 if it was never run."""
        self._tokens = max(self._tokens, tokens)
        self._unfinished -= 1
        if self._unfinished == 0 and self._tokens:
            self._histogram.observe(self._tokens)


class _Observer:
    """Turns what happens to one request into numbers."""

    def __init__(
        self,
        metrics: _ModelMetrics,
        model_name: str,
        prompt_tokens: int,
        n: int,
        max_tokens: int,
        longest: LongestOutput,
    ) -> None:
        self._metrics = metrics
        self._longest = longest
        self._name = model_name
        self._inter_token_s = metrics.inter_token_s.labels(model_name)
        self._generation_tokens = metrics.generation_tokens.labels(model_name)
        self._started = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self._tokens = 0
        self._prefill_s: float | None = None
        self._finished = False
        self._prompt_tokens = prompt_tokens
        self._n = n
        self._max_tokens = max_tokens

    def output(self, tokens: int, admission: Admission | None) -> None:
        now = time.monotonic()
        self._tokens += tokens
        self._generation_tokens.inc(tokens)
        if admission is not None and self._prefill_s is None:
            self._prefill_s = admission.prefill_s
            self._metrics.queue_s.labels(self._name).observe(admission.queue_s)
            self._metrics.prefill_s.labels(self._name).observe(admission.prefill_s)
        if self._first is None:
            self._first = now
            self._metrics.prompt_tokens.labels(self._name).inc(self._prompt_tokens)
            self._metrics.first_token_s.labels(self._name).observe(now - self._started)
        else:
            self._inter_token_s.observe(now - self._last)
        self._last = now

    def finish(self, reason: str) -> None:
        """Only the first call counts."""
        if self._finished:
            return
        self._finished = True
        metrics, name = self._metrics, self._name
        metrics.success.labels(name, reason).inc()
        self._longest.ended(self._tokens)
        if self._first is None:  # never run: it would blur the numbers of those that were
            return
        decode_s = self._last - self._first
        metrics.e2e_s.labels(name).observe(time.monotonic() - self._started)
        metrics.decode_s.labels(name).observe(decode_s)
        metrics.inference_s.labels(name).observe(decode_s + (self._prefill_s or 0.0))
        if self._tokens > 1:
            metrics.per_token_s.labels(name).observe(decode_s / (self._tokens - 1))
        metrics.request_prompt_tokens.labels(name).observe(self._prompt_tokens)
        metrics.request_generation_tokens.labels(name).observe(self._tokens)
        metrics.params_n.labels(name).observe(self._n)
        metrics.params_max_tokens.labels(name).observe(self._max_tokens)


def _is_alive(path: str) -> bool:
    """Whether the process still lives that wrote this file; its name ends with the process's id."""
    return Path("/proc", Path(path).stem.rpartition("_")[2]).exists()


def _merge(files: list[str]) -> Iterable[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return merged


def _sum_of(name: str, metrics: Iterable[Metric]) -> int:
    total = 0.0
    for metric in metrics:
        total += sum(sample.value for sample in metric.samples if sample.name == name)
    return round(total)
