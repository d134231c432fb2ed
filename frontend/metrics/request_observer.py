"""What becomes of one text, as numbers."""

import time
from typing import Protocol

from prometheus_client import Histogram

from headrace.frontend.metrics.model_metrics import ModelMetrics
from headrace.frontend.metrics.tenants import TenantTally
from headrace.protocol.to_frontend import Admission


class RequestObserver(Protocol):
    """Hooks into the life of one generated text; the request path knows no more of metrics."""

    def output(self, tokens: int, admission: Admission | None) -> None:
        """Some tokens have come; admission with the first of them."""
        ...

    def finish(self, reason: str) -> None:
        """The text has ended: "stop", "length", "abort" or "error"."""
        ...


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


class ChoiceObserver:
    """Turns what happens to one request into numbers."""

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
        self._name = model_name
        self._tally = metrics.tally(model_name)
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
        self._tally.add(tokens, None if self._first is None else now - self._last)
        self._tenant.generation.add(tokens)
        if admission is not None and self._prefill_s is None:
            self._prefill_s = admission.prefill_s
            self._metrics.queue_s.labels(self._name).observe(admission.queue_s)
            self._metrics.prefill_s.labels(self._name).observe(admission.prefill_s)
        if self._first is None:
            self._first = now
            self._metrics.prompt_tokens.labels(self._name).inc(self._prompt_tokens)
            self._tenant.prompt.add(self._prompt_tokens)
            self._metrics.first_token_s.labels(self._name).observe(now - self._started)
        self._last = now

    def finish(self, reason: str) -> None:
        """Only the first call counts."""
        if self._finished:
            return
        self._finished = True
        self._tally.flush()  # so that what is told of the text's end is told of all its tokens
        self._tenant.flush()
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
