"""Counting tokens: the metrics are told once for each turn of the event loop.

A step of the engine brings a token for each of many texts, and telling a metric that other
processes see costs as much for one token as for a hundred.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import Counter, Histogram


class TalliedHistogram(Histogram):
    """A histogram that also takes observations that have been sorted into its buckets already."""

    @property
    def bounds(self) -> Sequence[float]:
        """The buckets' upper bounds, the last of them infinite."""
        return self._upper_bounds

    def observe_sorted(self, counts: Sequence[int], total: float) -> None:
        """counts: of the observations in each bucket. total: the sum of the observations."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class TokenTally:
    """The tokens of one model, and the seconds between the outputs that brought them."""

    def __init__(self, tokens: Counter, gaps_s: TalliedHistogram) -> None:
        self._counter, self._histogram = tokens, gaps_s
        self._bounds = gaps_s.bounds
        self._told = True
        self._clear()

    def add(self, tokens: int, gap_s: float | None) -> None:
        """An output has come. gap_s: since the one before it; None for a text's first."""
        if self._told:
            self._told = False
            asyncio.get_running_loop().call_soon(self.flush)
        self._tokens += tokens
        if gap_s is not None:
            self._counts[bisect_left(self._bounds, gap_s)] += 1
            self._total_s += gap_s

    def flush(self) -> None:
        """Pass on what has been counted; harmless when there is nothing."""
        if self._told:
            return
        self._told = True
        self._counter.inc(self._tokens)
        self._histogram.observe_sorted(self._counts, self._total_s)
        self._clear()

    def _clear(self) -> None:
        self._tokens, self._total_s = 0, 0.0
        self._counts = [0] * len(self._bounds)


class CountTally:
    """What is to be added to a counter."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._count = 0

    def add(self, count: int) -> None:
        if self._count == 0 and count > 0:
            asyncio.get_running_loop().call_soon(self.flush)
        self._count += count

    def flush(self) -> None:
        """Pass on what has been counted; harmless when there is nothing."""
        count, self._count = self._count, 0
        if count:
            self._counter.inc(count)
