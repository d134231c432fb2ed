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
FINISH_REASONS = ("stop", "length", "abort", "error")
N_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0)

HistogramT = TypeVar("HistogramT", bound=Histogram)


class ModelMetrics:
    """The metrics of choices; observations per token go through a tally."""

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

        self._tallies: dict[str, TokenTally] = {}

    def create_series(self, model_name: str) -> None:
        """Create a model's time series before anything is counted.

        Prometheus computes no rate for the first count of a series that did not exist before.
        """
        for metric in vars(self).values():
            if isinstance(metric, Counter | Histogram) and metric is not self.success:
                metric.labels(model_name)
        for reason in FINISH_REASONS:
            self.success.labels(model_name, reason)

    def tally(self, model_name: str) -> TokenTally:
        """Return the tally of a model's generated tokens."""
        tally = self._tallies.get(model_name)
        if tally is None:
            tokens = self.generation_tokens.labels(model_name)
            tally = TokenTally(tokens, self.inter_token_s.labels(model_name))
            self._tallies[model_name] = tally
        return tally

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"{self._prefix}{name}", text, ("model_name",), registry=self._registry)

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
            ("model_name",),
            buckets=buckets,
            registry=self._registry,
        )
