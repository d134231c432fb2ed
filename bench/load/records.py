"""Record requests and summarize them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

PERCENTILES = (50, 90, 99)


@dataclass(slots=True)
class Record:
    """The measurements of one request; times are in seconds of one clock.

    chunk_times_s: when each chunk of the output arrived.
    content_events: events with text; a token that is a part of a character makes none, and several
        tokens may share one.
    error: the kind of failure; "" if it succeeded.
    """

    started_s: float
    ended_s: float = 0.0
    chunk_times_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    content_events: int = 0
    error: str = ""

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return (self.chunk_times_s[0] if self.chunk_times_s else self.ended_s) - self.started_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None if there is only one."""
        if self.output_tokens < 2 or not self.chunk_times_s:
            return None
        return (self.chunk_times_s[-1] - self.chunk_times_s[0]) / (self.output_tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Inter-token latencies: the times between the chunks of the output."""
        return [b - a for a, b in zip(self.chunk_times_s, self.chunk_times_s[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles, in milliseconds; NaN where nothing was measured."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The results of one load on one server.

    duration_s: from the first request to the last response.
    client_cpu: share of a core that this program used; near 1 it was the bottleneck.
    """

    ok: int
    failed: int
    errors: dict[str, int]
    duration_s: float
    requests_per_s: float
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    content_events: int
    content_events_per_s: float
    total_tokens_per_s: float
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    e2e_ms: Spread
    client_cpu: float

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; NaN, which JSON lacks, becomes None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def summarize(records: Sequence[Record], client_cpu_s: float = 0.0) -> Summary:
    """Summarize the requests of one load. client_cpu_s: CPU seconds of this program."""
    good = [record for record in records if not record.error]
    start_s = min((record.started_s for record in records), default=0.0)
    duration_s = max((record.ended_s for record in records), default=0.0) - start_s
    seconds = duration_s or math.inf
    prompt_tokens = sum(record.prompt_tokens for record in good)
    output_tokens = sum(record.output_tokens for record in good)
    content_events = sum(record.content_events for record in good)
    return Summary(
        ok=len(good),
        failed=len(records) - len(good),
        errors=dict(Counter(record.error for record in records if record.error).most_common()),
        duration_s=duration_s,
        requests_per_s=len(good) / seconds,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / seconds,
        content_events=content_events,
        content_events_per_s=content_events / seconds,
        total_tokens_per_s=(prompt_tokens + output_tokens) / seconds,
        ttft_ms=spread([record.ttft_s for record in good]),
        tpot_ms=spread([t for record in good if (t := record.tpot_s) is not None]),
        itl_ms=spread([gap for record in good for gap in record.gaps_s]),
        e2e_ms=spread([record.ended_s - record.started_s for record in good]),
        client_cpu=client_cpu_s / seconds,
    )


def spread(seconds: Sequence[float]) -> Spread:
    """Return mean and percentiles, in milliseconds, of times in seconds."""
    if not seconds:
        return Spread(math.nan, math.nan, math.nan, math.nan)
    ordered = sorted(seconds)
    values = [percentile(ordered, share) * 1e3 for share in PERCENTILES]
    return Spread(math.fsum(ordered) / len(ordered) * 1e3, *values)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of ascending values, with linear interpolation as in NumPy."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def ratio(value: float, base: float) -> float:
    """Return the ratio of a value to a base; NaN if the base is 0."""
    return value / base if base else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
