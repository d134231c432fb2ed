"""Count tokens in memory and update the metrics once for each iteration of the event loop.

An engine step brings a token for each of many choices, and updating a metric that is shared between
processes costs as much for one token as for a hundred.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import Counter, Histogram


class TalliedHistogram(Histogram):
    """A histogram that also takes observations already counted by bucket."""

    @property
    def bounds(self) -> Sequence[float]:
        """The upper bounds of the buckets; the last is infinite."""
        return self._upper_bounds

    def observe_counts(self, counts: Sequence[int], total: float) -> None:
        """Add observations. counts: of each bucket. total: the sum of the observations."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class TokenTally:
    """Counts the tokens of one model, and the seconds between its outputs."""

    def __init__(self, tokens: Counter, gaps_s: TalliedHistogram) -> None:
        self._counter, self._histogram = tokens, gaps_s
        self._bounds = gaps_s.bounds
        self._is_flushed = True
        self._clear()

    def add(self, tokens: int, gap_s: float | None) -> None:
        """Count an output. gap_s: seconds since the choice's last output; None for its first."""
        if self._is_flushed:
            self._is_flushed = False
            asyncio.get_running_loop().call_soon(self.flush)
        self._tokens += tokens
        if gap_s is not None:
            self._counts[bisect_left(self._bounds, gap_s)] += 1
            self._total_s += gap_s

    def flush(self) -> None:
        """Update the metrics; does nothing if nothing has been counted since."""
        if self._is_flushed:
            return
        self._is_flushed = True
        self._counter.inc(self._tokens)
        self._histogram.observe_counts(self._counts, self._total_s)
        self._clear()

    def _clear(self) -> None:
        self._tokens, self._total_s = 0, 0.0
        self._counts = [0] * len(self._bounds)


class CountTally:
    """Counts in memory what the next flush adds to a counter."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._count = 0

    def add(self, count: int) -> None:
        if self._count == 0 and count > 0:
            asyncio.get_running_loop().call_soon(self.flush)
        self._count += count

    def flush(self) -> None:
        """Update the metrics; does nothing if nothing has been counted since."""
        count, self._count = self._count, 0
        if count:
            self._counter.inc(count)
