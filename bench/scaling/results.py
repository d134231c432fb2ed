"""What a day was like, in numbers."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.scaling.engines import Engine
from bench.scaling.pool import Day

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Waits:
    """For each piece of the line of requests: when they came, how long they waited for a place (in
    whole seconds: 0 is less than one), and how many they are."""

    came_at: NDArray[np.int64]
    seconds: NDArray[np.int64]
    weight: Floats

    def quantile(self, share: float) -> float:
        """So many of all requests waited no longer."""
        order = np.argsort(self.seconds, kind="stable")
        sums = np.cumsum(self.weight[order])
        return float(self.seconds[order][np.searchsorted(sums, share * sums[-1])])

    def share_over(self, seconds: float) -> float:
        """Of all requests, those that waited longer."""
        return float(self.weight[self.seconds > seconds].sum() / self.weight.sum())

    def by_minute(self, share: float) -> Floats:
        """The quantile of those that came in each minute."""
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
    """First come, first served: the n-th to come is the n-th to begin. Those that have not begun
    when the day ends have waited until then."""
    came, begun = np.cumsum(day.came), np.cumsum(day.begun)
    ends = np.unique(np.concatenate([came, begun, [came[-1]]]))
    middles, weight = (ends + np.concatenate([[0.0], ends[:-1]])) / 2, np.diff(ends, prepend=0.0)
    real = weight > 1e-6
    came_at = np.searchsorted(came, middles[real])
    begun_at = np.searchsorted(begun, middles[real])
    return Waits(came_at, np.maximum(begun_at - came_at, 0), weight[real])


def oracle(expected: Floats, engine: Engine, target: float) -> Floats:
    """Workers that would have done in each second with the target's batch in each, for one who
    knows what comes and has workers that start at once."""
    needed: Floats = np.maximum(1, np.ceil(expected / engine.requests_per_s(target * engine.slots)))
    return needed


def turns(size: Floats) -> tuple[int, int]:
    """Changes of size, and how many of them went the other way than the one before."""
    steps = np.diff(size)
    signs = np.sign(steps[steps != 0])
    return len(signs), int((np.diff(signs) != 0).sum())
