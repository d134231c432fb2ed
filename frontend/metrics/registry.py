"""Register all metrics of a frontend, and expose those of the whole pool.

With PROMETHEUS_MULTIPROC_DIR set, all processes write their metrics to that folder and any frontend
exposes the sums; without it (one process, tests) a frontend exposes its own.
"""

import glob
import os
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from headrace.frontend.metrics.audio_metrics import AudioMetrics
from headrace.frontend.metrics.batch_metrics import BatchMetrics
from headrace.frontend.metrics.model_metrics import ModelMetrics
from headrace.frontend.metrics.rejections import REASONS, RejectionReason, rejection_reason
from headrace.frontend.metrics.request_observer import (
    ChoiceObserver,
    LongestOutput,
    RequestObserver,
)
from headrace.frontend.metrics.tenants import TenantRequests, TenantTokens
from headrace.protocol.common.metrics import metric_files
from headrace.protocol.common.metrics.metric_space import keep_metrics_on_full_disks
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import engine_label

# Engines whose time series exist before they have run anything: each costs every scrape some time.
MAX_EMPTY_ENGINES = 8
_REQUEST_TYPES = {"/v1/chat/completions": "chat_completions", "/v1/responses": "responses"}
_OTHER_REQUESTS = "other"
_PARSING_MODES = ("non_streaming", "streaming")
_PARSING_OUTCOMES = ("no_tool_call", "tool_call")
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """All metrics of a frontend, named with the configured prefix ("headrace:").

    HTTP metrics have no prefix, as in vLLM.
    """

    def __init__(self, config: PoolConfig) -> None:
        keep_metrics_on_full_disks()
        prefix = config.metrics_prefix
        self._multiprocess_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._registry = CollectorRegistry()
        self.models = ModelMetrics(prefix, self._registry)
        self._tenants = TenantTokens(prefix, self._registry)
        self.tenant_requests = TenantRequests(prefix, self._registry)
        self.batches = BatchMetrics(prefix, self._registry)
        self.audio = AudioMetrics(prefix, self._registry)
        self._model_names = {group.name: group.served_names[0] for group in config.groups}
        self._rejections = Counter(
            f"{prefix}requests_refused",
            "Requests that were answered with a status of 400 or more before they ran, by reason.",
            ("reason",),
            registry=self._registry,
        )
        for reason in REASONS:
            self._rejections.labels(reason)
        self._parsed_choices = Counter(
            f"{prefix}tool_call_parser_invocations_total",
            "Outputs in which a tool parser looked for calls.",
            ("model_name", "mode", "outcome", "request_type"),
            registry=self._registry,
        )
        for group in config.groups:
            self._create_series(group)
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

    def _create_series(self, group: GroupConfig) -> None:
        engines = [str(number) for number in range(min(group.workers, MAX_EMPTY_ENGINES))]
        name = group.served_names[0]
        self.models.create_series(name, engines)
        types = (*_REQUEST_TYPES.values(), _OTHER_REQUESTS)
        for labels in product((name,), _PARSING_MODES, _PARSING_OUTCOMES, types):
            self._parsed_choices.labels(*labels)

    def request(
        self,
        model_name: str,
        prompt_tokens: int,
        n: int,
        max_tokens: int | None,
        longest: LongestOutput | None = None,
        tenant: str = "",
        named_by_client: bool = True,
    ) -> RequestObserver:
        """Return an observer for one choice; its clock starts now.

        max_tokens: of its output; None: it has none.
        longest: shared by the choices of one prompt; None if there is only this one.
        named_by_client: whether the client has chosen the tenant's name.
        """
        longest = longest or LongestOutput(1)
        tally = self._tenants.of(tenant, named_by_client)
        return ChoiceObserver(self.models, model_name, prompt_tokens, n, max_tokens, longest, tally)

    def count_http_request(self, handler: str, method: str, status: int, duration_s: float) -> None:
        """Count an answered HTTP request. handler: the rule of the route, never the path itself."""
        method = method if method in _KNOWN_METHODS else "OTHER"
        self._http_requests.labels(handler, method, f"{status // 100}xx").inc()
        self._http_duration.labels(handler, method).observe(duration_s)

    def count_rejection(
        self, handler: str, method: str, status: int, reason: RejectionReason | None
    ) -> None:
        """Count an answered HTTP request if it was rejected.

        reason: "stopping" or another that the status does not show; None to derive it.
        """
        reason = reason or rejection_reason(handler, method, status)
        if reason is not None:
            self._rejections.labels(reason).inc()

    def count_replay(self, group: str, worker_id: str) -> None:
        """Count a request of a group that is replayed after the loss of a worker."""
        name = self._model_names[group]
        self.models.of(name, engine_label(worker_id)).replays.inc()

    def count_parsed_choice(
        self, model_name: str, *, streams: bool, has_calls: bool, handler: str
    ) -> None:
        """Count an output in which a tool parser looked for calls.

        handler: the rule of the route.
        """
        labels = (
            model_name,
            _PARSING_MODES[streams],
            _PARSING_OUTCOMES[has_calls],
            _REQUEST_TYPES.get(handler, _OTHER_REQUESTS),
        )
        self._parsed_choices.labels(*labels).inc()

    def enter(self) -> None:
        """Count a generating request as in flight until `leave` is called."""
        self._in_flight.inc()

    def leave(self) -> None:
        """Count a generating request as no longer in flight."""
        self._in_flight.dec()

    def in_flight(self) -> int:
        """Return the requests in flight in the whole pool. Blocks: it reads files."""
        if self._multiprocess_dir is None:
            return _sum_of(self._in_flight_name, self._registry.collect())
        files = [
            path
            for path in glob.glob(f"{self._multiprocess_dir}/gauge_livesum_*.db")
            if _is_alive(path)
        ]
        return _sum_of(self._in_flight_name, _merge(files))

    def exposition(self, *more: Collector, tenant: str | None = None) -> bytes:
        """Return all metrics of the pool in Prometheus' text format. Blocks: it reads files.

        more: collects further metrics. tenant: leave out what is told of other tenants.
        """
        registry = CollectorRegistry()
        folder = self._multiprocess_dir
        own: Collector = _OwnCollector(self._registry)
        all_processes = own if folder is None else _PoolCollector(Path(folder))
        registry.register(_TenantFilter(all_processes, tenant) if tenant else all_processes)
        for collector in more:
            registry.register(collector)
        return generate_latest(registry)


class _OwnCollector(Collector):
    """Collects the metrics of this process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect()


class _TenantFilter(Collector):
    """Leaves out samples of other tenants."""

    def __init__(self, collector: Collector, tenant: str) -> None:
        self._collector, self._tenant = collector, tenant

    def collect(self) -> Iterable[Metric]:
        for metric in self._collector.collect():
            metric.samples = [
                sample
                for sample in metric.samples
                if sample.labels.get("tenant", self._tenant) == self._tenant
            ]
            yield metric


class _PoolCollector(Collector):
    """Collects the metrics that all processes of the pool have written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        return metric_files.read(self._folder)


def _is_alive(path: str) -> bool:
    """Return whether the process that wrote a metric file runs; the file name ends with its id."""
    return Path("/proc", Path(path).stem.rpartition("_")[2]).exists()


def _merge(files: list[str]) -> Iterable[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return merged


def _sum_of(name: str, metrics: Iterable[Metric]) -> int:
    total = 0.0
    for metric in metrics:
        total += sum(sample.value for sample in metric.samples if sample.name == name)
    return round(total)
