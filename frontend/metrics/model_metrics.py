"""Define the metrics that are labelled with a model's name."""

from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from headrace.frontend.metrics.tally import TalliedHistogram, TokenTally

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
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
# The number of the worker's replica slot, as in the metrics of workers.
LABELS = ("model_name", "engine")
N_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0)

HistogramT = TypeVar("HistogramT", bound=Histogram)


class ModelMetrics:
    """The metrics of choices, by model and engine."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._prefix = prefix
        self._registry = registry
        tokens, request_s = TOKEN_COUNT_BUCKETS, REQUEST_BUCKETS_S
        self.success = Counter(
            f"{prefix}request_success_total",
            "Requests that have ended, by reason.",
            (*LABELS, "finished_reason"),
            registry=registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens_total", "Tokens of prompts.")
        self.generation_tokens = self._counter("generation_tokens_total", "Tokens generated.")
        self.replays = self._counter(
            "request_replays_total", "Requests sent to a worker again after the loss of one."
        )
        self.first_token_s = self._histogram("time_to_first_token_seconds", FIRST_TOKEN_BUCKETS_S)
        self.inter_token_s = self._tallied("inter_token_latency_seconds", TOKEN_BUCKETS_S)
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
        self.unread_tokens = self._counter(
            "generation_tokens_unread_total",
            "Tokens generated whose clients left before they had read them.",
        )
        self.client_wait_s = Histogram(
            f"{prefix}stream_client_wait_seconds",
            "Seconds for which a stream had tokens that its client did not read; streams without "
            "such seconds do not count.",
            LABELS,
            buckets=request_s,
            registry=registry,
        )
        self.cached_tokens = self._counter(
            "prompt_tokens_cached_total", "Prompt tokens found in the prefix cache."
        )
        self.tokens_by_source = Counter(
            f"{prefix}prompt_tokens_by_source_total",
            "Prompt tokens by where their keys and values came from.",
            (*LABELS, "source"),
            registry=registry,
        )
        self.computed_tokens = self._histogram("request_prefill_kv_computed_tokens", tokens)
        self._series: dict[tuple[str, str], EngineSeries] = {}

    def create_series(self, model_name: str, engines: Sequence[str]) -> None:
        """Create the time series of some engines before anything is counted.

        Prometheus computes no rate for the first count of a series that did not exist before.
        """
        for engine in engines:
            self.of(model_name, engine)

    def of(self, model_name: str, engine: str) -> "EngineSeries":
        """Return the metrics of an engine's requests. engine: "" for requests that none has run."""
        series = self._series.get((model_name, engine))
        if series is None:
            self._series[model_name, engine] = series = EngineSeries(self, model_name, engine)
        return series

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"{self._prefix}{name}", text, LABELS, registry=self._registry)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        return self._create(Histogram, name, buckets)

    def _tallied(self, name: str, buckets: Sequence[float]) -> TalliedHistogram:
        return self._create(TalliedHistogram, name, buckets)

    def _create(
        self, histogram: type[HistogramT], name: str, buckets: Sequence[float]
    ) -> HistogramT:
        return histogram(
            f"{self._prefix}{name}",
            f"{name.replace('_', ' ').capitalize()}.",
            LABELS,
            buckets=buckets,
            registry=self._registry,
        )


class EngineSeries:
    """The metrics of the choices that one engine runs, labelled once.

    tally: of generated tokens; observations per token go through it.
    """

    def __init__(self, metrics: ModelMetrics, *labels: str) -> None:
        self.success = {
            reason: metrics.success.labels(*labels, reason) for reason in FINISH_REASONS
        }
        self.prompt_tokens = metrics.prompt_tokens.labels(*labels)
        self.cached_tokens = metrics.cached_tokens.labels(*labels)
        self.unread_tokens = metrics.unread_tokens.labels(*labels)
        self.client_wait_s = metrics.client_wait_s.labels(*labels)
        by_source = metrics.tokens_by_source
        self.found_tokens = by_source.labels(*labels, "local_cache_hit")
        self.missed_tokens = by_source.labels(*labels, "local_compute")
        self.first_token_s = metrics.first_token_s.labels(*labels)
        self.per_token_s = metrics.per_token_s.labels(*labels)
        self.e2e_s = metrics.e2e_s.labels(*labels)
        self.queue_s = metrics.queue_s.labels(*labels)
        self.prefill_s = metrics.prefill_s.labels(*labels)
        self.decode_s = metrics.decode_s.labels(*labels)
        self.inference_s = metrics.inference_s.labels(*labels)
        self.request_prompt_tokens = metrics.request_prompt_tokens.labels(*labels)
        self.request_generation_tokens = metrics.request_generation_tokens.labels(*labels)
        self.max_generation_tokens = metrics.max_generation_tokens.labels(*labels)
        self.params_max_tokens = metrics.params_max_tokens.labels(*labels)
        self.params_n = metrics.params_n.labels(*labels)
        self.computed_tokens = metrics.computed_tokens.labels(*labels)
        self.replays = metrics.replays.labels(*labels)
        tokens, gaps_s = metrics.generation_tokens, metrics.inter_token_s
        self.tally = TokenTally(tokens.labels(*labels), gaps_s.labels(*labels))
