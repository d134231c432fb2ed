"""Observe one choice from its arrival to its end, and record its metrics."""

import time
from typing import Protocol

from headrace.frontend.metrics.model_metrics import EngineSeries, ModelMetrics
from headrace.frontend.metrics.tenants import TenantTally
from headrace.protocol.to_frontend import Admission


class RequestObserver(Protocol):
    """The hooks that the request path calls for one choice; it knows nothing else of metrics."""

    def output(self, tokens: int, admission: Admission | None) -> None:
        """Count new tokens. admission: given with the first of them."""
        ...

    def finish(self, reason: str) -> None:
        """Record the end: "stop", "length", "abort", "error" or "repetition"."""
        ...

    def leave_unread(self, tokens: int) -> None:
        """Count tokens that the client has not read."""
        ...

    def note_client_wait(self, seconds: float) -> None:
        """Record how long the choice's stream has waited for its client to read."""
        ...


class LongestOutput:
    """The longest output of one prompt's choices, observed when the last of them has ended."""

    def __init__(self, choices: int) -> None:
        self._unfinished = choices
        self._longest_tokens = 0

    def finish_choice(self, tokens: int, series: EngineSeries) -> None:
        """Note that a choice has ended with so many tokens; 0 if it was never run."""
        self._longest_tokens = max(self._longest_tokens, tokens)
        self._unfinished -= 1
        if self._unfinished == 0 and self._longest_tokens:
            series.max_generation_tokens.observe(self._longest_tokens)


class ChoiceObserver:
    """Records the metrics of one choice; its clock starts when it is made.

    They count for the engine that made its first output.
    """

    def __init__(
        self,
        metrics: ModelMetrics,
        model_name: str,
        prompt_tokens: int,
        n: int,
        max_tokens: int | None,
        longest: LongestOutput,
        tenant: TenantTally,
    ) -> None:
        self._metrics = metrics
        self._model_name = model_name
        self._tenant = tenant
        self._longest = longest
        self._series: EngineSeries | None = None
        self._started_s = time.monotonic()
        self._first_s = 0.0
        self._last_s = 0.0
        self._tokens = 0
        self._prefill_s = 0.0
        self._finished = False
        self._prompt_tokens = prompt_tokens
        self._n = n
        self._max_tokens = max_tokens

    def output(self, tokens: int, admission: Admission | None) -> None:
        now = time.monotonic()
        self._tokens += tokens
        self._tenant.generation.add(tokens)
        if self._series is None:
            self._series = self._begin(now, admission)
            self._series.tally.add(tokens, None)
        else:
            self._series.tally.add(tokens, now - self._last_s)
        self._last_s = now

    def _begin(self, now: float, admission: Admission | None) -> EngineSeries:
        """Record the first output."""
        engine = "" if admission is None else admission.engine
        series = self._metrics.of(self._model_name, engine)
        self._first_s = now
        series.prompt_tokens.inc(self._prompt_tokens)
        self._tenant.prompt.add(self._prompt_tokens)
        series.first_token_s.observe(now - self._started_s)
        if admission is not None:
            self._prefill_s = admission.prefill_s
            series.queue_s.observe(admission.queue_s)
            series.prefill_s.observe(admission.prefill_s)
            cached_tokens = admission.cached_tokens
            series.cached_tokens.inc(cached_tokens)
            series.found_tokens.inc(cached_tokens)
            series.missed_tokens.inc(self._prompt_tokens - cached_tokens)
            series.computed_tokens.observe(self._prompt_tokens - cached_tokens)
        return series

    def finish(self, reason: str) -> None:
        """Record the end; only the first call counts."""
        if self._finished:
            return
        self._finished = True
        self._tenant.flush()
        series = self._series
        if series is None:  # never run: it would distort the latencies of choices that were
            series = self._metrics.of(self._model_name, "")
            series.success[reason].inc()
            self._longest.finish_choice(0, series)
            return
        series.tally.flush()  # metrics that show the end also show all of its tokens
        series.success[reason].inc()
        self._longest.finish_choice(self._tokens, series)
        decode_s = self._last_s - self._first_s
        series.e2e_s.observe(time.monotonic() - self._started_s)
        series.decode_s.observe(decode_s)
        series.inference_s.observe(decode_s + self._prefill_s)
        if self._tokens > 1:
            series.per_token_s.observe(decode_s / (self._tokens - 1))
        series.request_prompt_tokens.observe(self._prompt_tokens)
        series.request_generation_tokens.observe(self._tokens)
        series.params_n.observe(self._n)
        if self._max_tokens is not None:
            series.params_max_tokens.observe(self._max_tokens)

    def leave_unread(self, tokens: int) -> None:
        if self._series is not None:
            self._series.unread_tokens.inc(tokens)

    def note_client_wait(self, seconds: float) -> None:
        if self._series is not None:
            self._series.client_wait_s.observe(seconds)
