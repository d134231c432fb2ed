"""Summarize a simulated day."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.scaling.engines import Engine
from bench.scaling.pool import Day

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Waits:
    """The waiting times of a day's requests, in pieces that arrived and started together.

    came_at: second of the arrival. seconds: waited for a slot (whole seconds, 0: less than one).
    weight: how many requests.
    """

    came_at: NDArray[np.int64]
    seconds: NDArray[np.int64]
    weight: Floats

    def quantile(self, share: float) -> float:
        """Return the waiting time that this share of all requests did not exceed."""
        order = np.argsort(self.seconds, kind="stable")
        sums = np.cumsum(self.weight[order])
        return float(self.seconds[order][np.searchsorted(sums, share * sums[-1])])

    def share_over(self, seconds: float) -> float:
        """Return the share of requests that waited longer."""
        return float(self.weight[self.seconds > seconds].sum() / self.weight.sum())

    def by_minute(self, share: float) -> Floats:
        """Return the quantile for the requests that arrived in each minute."""
        minutes = self.came_at // 60
        bounds = np.searchsorted(minutes, np.arange(minutes[-1] + 2))
        return np.array(
            [
                Waits(self.came_at[a:b], self.seconds[a:b], self.weight[a:b]).quantile(share)
                for a, b in itertools.pairwise(bounds)
                if b > a
            ]
        )


def waits(day: Day) -> Waits:
    """Return the waiting times, first come, first served: the n-th to arrive is the n-th to start.

    Requests that have not started when the day ends have waited until then.
    """
    came, begun = np.cumsum(day.came), np.cumsum(day.begun)
    ends = np.unique(np.concatenate([came, begun, [came[-1]]]))
    middles, weight = (ends + np.concatenate([[0.0], ends[:-1]])) / 2, np.diff(ends, prepend=0.0)
    real = weight > 1e-6
    came_at = np.searchsorted(came, middles[real])
    begun_at = np.searchsorted(begun, middles[real])
    return Waits(came_at, np.maximum(begun_at - came_at, 0), weight[real])


def oracle(expected: Floats, engine: Engine, target: float) -> Floats:
    """Return the workers that a perfect oracle has in each second, each with the target's batch.

    It knows the expected requests, and its workers start at once.
    """
    needed: Floats = np.maximum(1, np.ceil(expected / engine.requests_per_s(target * engine.slots)))
    return needed


def count_changes(size: Floats) -> tuple[int, int]:
    """Return the number of size changes, and how many of them reversed the one before."""
    steps = np.diff(size)
    signs = np.sign(steps[steps != 0])
    return len(signs), int((np.diff(signs) != 0).sum())
