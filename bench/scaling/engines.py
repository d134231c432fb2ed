"""Model an engine in numbers: what a worker with a given batch does in a second."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTUM = 25  # tokens: the resolution of the distribution of output lengths


@dataclass(frozen=True)
class Engine:
    """An engine with continuous batching: the more requests a worker runs, the longer a step takes.

    slots: requests at once. step_s, row_s: seconds of a step, and more for each request in it.
    prompt_tokens: of each request. prefill: prompt tokens per second, without decodes.
    prefill_share: of the time, at most.
    mean_tokens, spread: of outputs, whose lengths are log-normal, up to `longest`.
    start_s: until a new worker is ready, on average (0.8 to 1.5 times this).
    failing: the share of starts that fail and are repeated.
    drain_s: how long a draining worker is paid for.
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
        """Return the shares of outputs by length in quanta, from one quantum on."""
        tokens = np.arange(QUANTUM, self.longest + QUANTUM, QUANTUM)
        middle = np.log(self.mean_tokens) - self.spread**2 / 2
        weights = np.exp(-((np.log(tokens) - middle) ** 2) / (2 * self.spread**2)) / tokens
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def tokens_per_s(self, batch: float, prefilled: float) -> float:
        """Return the rate of a request. batch: in a worker. prefilled: started this second."""
        share = min(prefilled * self.prompt_tokens / self.prefill, self.prefill_share)
        return (1.0 - share) / (self.step_s + self.row_s * batch)

    def starts_per_s(self) -> float:
        """Return how many requests a worker can start, by its prefill rate alone."""
        return self.prefill_share * self.prefill / self.prompt_tokens

    def requests_per_s(self, batch: float) -> float:
        """Return how many requests end in a worker with a constant batch."""
        lengths = self.lengths()
        mean = float((np.arange(1, len(lengths) + 1) * QUANTUM * lengths).sum())
        free = batch / (mean * (self.step_s + self.row_s * batch))
        return free / (1.0 + free * self.prompt_tokens / self.prefill)
