"""Observe one choice from its arrival to its end, and record its metrics."""

import time
from typing import Protocol

from prometheus_client import Histogram

from headrace.frontend.metrics.model_metrics import ModelMetrics
from headrace.frontend.metrics.tenants import TenantTally
from headrace.protocol.to_frontend import Admission


class RequestObserver(Protocol):
    """The hooks that the request path calls for one choice; it knows nothing else of metrics."""

    def output(self, tokens: int, admission: Admission | None) -> None:
        """Count new tokens. admission: given with the first of them."""
        ...

    def finish(self, reason: str) -> None:
        """Record the end: "stop", "length", "abort" or "error"."""
        ...


class LongestOutput:
    """The longest output of one prompt's choices, observed when the last of them has ended."""

    def __init__(self, histogram: Histogram, choices: int) -> None:
        self._histogram = histogram
        self._unfinished = choices
        self._longest_tokens = 0

    def finish_choice(self, tokens: int) -> None:
        """Note that a choice has ended with so many tokens; 0 if it was never run."""
        self._longest_tokens = max(self._longest_tokens, tokens)
        self._unfinished -= 1
        if self._unfinished == 0 and self._longest_tokens:
            self._histogram.observe(self._longest_tokens)


class ChoiceObserver:
    """Records the metrics of one choice; its clock starts when it is made."""

    def __init__(
        self,
        metrics: ModelMetrics,
        model_name: str,
        prompt_tokens: int,
        n: int,
        max_tokens: int,
        longest: LongestOutput,
        tenant: TenantTally,
    ) -> None:
        self._metrics = metrics
        self._tenant = tenant
        self._longest = longest
        self._model_name = model_name
        self._tally = metrics.tally(model_name)
        self._started_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._tokens = 0
        self._prefill_s: float | None = None
        self._finished = False
        self._prompt_tokens = prompt_tokens
        self._n = n
        self._max_tokens = max_tokens

    def output(self, tokens: int, admission: Admission | None) -> None:
        now = time.monotonic()
        self._tokens += tokens
        self._tally.add(tokens, None if self._first_s is None else now - self._last_s)
        self._tenant.generation.add(tokens)
        if admission is not None and self._prefill_s is None:
            self._prefill_s = admission.prefill_s
            self._metrics.queue_s.labels(self._model_name).observe(admission.queue_s)
            self._metrics.prefill_s.labels(self._model_name).observe(admission.prefill_s)
        if self._first_s is None:
            self._first_s = now
            self._metrics.prompt_tokens.labels(self._model_name).inc(self._prompt_tokens)
            self._tenant.prompt.add(self._prompt_tokens)
            self._metrics.first_token_s.labels(self._model_name).observe(now - self._started_s)
        self._last_s = now

    def finish(self, reason: str) -> None:
        """Record the end; only the first call counts."""
        if self._finished:
            return
        self._finished = True
        self._tally.flush()  # metrics that show the end also show all of its tokens
        self._tenant.flush()
        metrics, name = self._metrics, self._model_name
        metrics.success.labels(name, reason).inc()
        self._longest.finish_choice(self._tokens)
        if self._first_s is None:  # never run: it would distort the latencies of choices that were
            return
        decode_s = self._last_s - self._first_s
        metrics.e2e_s.labels(name).observe(time.monotonic() - self._started_s)
        metrics.decode_s.labels(name).observe(decode_s)
        metrics.inference_s.labels(name).observe(decode_s + (self._prefill_s or 0.0))
        if self._tokens > 1:
            metrics.per_token_s.labels(name).observe(decode_s / (self._tokens - 1))
        metrics.request_prompt_tokens.labels(name).observe(self._prompt_tokens)
        metrics.request_generation_tokens.labels(name).observe(self._tokens)
        metrics.params_n.labels(name).observe(self._n)
        metrics.params_max_tokens.labels(name).observe(self._max_tokens)
