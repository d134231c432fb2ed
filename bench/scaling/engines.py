"""Engines in numbers: what a worker with so many requests in its batch does in a second."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTUM = 25  # tokens of a step of the distribution of lengths


@dataclass(frozen=True)
class Engine:
    """Continuous batching: the more requests a worker runs, the longer a step takes.

    slots: requests at once. step_s, row_s: seconds of a step, and more for each request in it.
    prompt_tokens: of each request. prefill: prompt tokens per second, if nothing else is done;
    prefill_share: of the time, at most.
    mean_tokens, spread: of answers, whose lengths are lognormal, up to longest.
    start_s: until a worker that was ordered is ready, on average (0.8 to 1.5 of it); failing: the
    share of starts that fail, and are made again. drain_s: that a worker that goes is paid for.
    """

    slots: int = 64
    step_s: float = 0.02
    row_s: float = 0.0004
    prompt_tokens: float = 500.0
    prefill: float = 8000.0
    prefill_share: float = 0.8
    mean_tokens: float = 300.0
    spread: float = 0.7
    longest: int = 1500
    start_s: float = 60.0
    failing: float = 0.02
    drain_s: int = 30

    def lengths(self) -> NDArray[np.float64]:
        """The shares of answers by their length in quanta, the first of which is one quantum."""
        tokens = np.arange(QUANTUM, self.longest + QUANTUM, QUANTUM)
        middle = np.log(self.mean_tokens) - self.spread**2 / 2
        weights = np.exp(-((np.log(tokens) - middle) ** 2) / (2 * self.spread**2)) / tokens
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def tokens_per_s(self, batch: float, prefilled: float) -> float:
        """Of each request. batch: requests in a worker; prefilled: that began in it this second."""
        share = min(prefilled * self.prompt_tokens / self.prefill, self.prefill_share)
        return (1.0 - share) / (self.step_s + self.row_s * batch)

    def starts_per_s(self) -> float:
        """Requests that a worker can begin, prefill alone considered."""
        return self.prefill_share * self.prefill / self.prompt_tokens

    def requests_per_s(self, batch: float) -> float:
        """That end in a worker with a steady batch."""
        lengths = self.lengths()
        mean = float((np.arange(1, len(lengths) + 1) * QUANTUM * lengths).sum())
        free = batch / (mean * (self.step_s + self.row_s * batch))
        return free / (1.0 + free * self.prompt_tokens / self.prefill)
