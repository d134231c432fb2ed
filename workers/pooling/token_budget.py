"""Bound the tokens of a step by how long steps have taken."""

# What a text that has just come waits for the step before it, and a cancelled one still costs.
TARGET_STEP_S = 0.25
MIN_TOKENS = 256
_SMOOTHING = 0.25  # of the newest step, in the mean of all


class TokenBudget:
    """The most tokens of the next step. most: of any step."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rate: float | None = None  # tokens a second

    @property
    def tokens(self) -> int:
        """How many tokens the next step may have."""
        if self._rate is None:  # the first step tells more if it is small
            return min(self._most, 2 * MIN_TOKENS)
        return min(self._most, max(MIN_TOKENS, int(self._rate * TARGET_STEP_S)))

    def observe(self, tokens: int, seconds: float) -> None:
        """Record how long a step took. Small ones tell little: most of it is not their tokens'. Of
        the least budget, though, texts seldom fill the last token: half of it must tell enough, or
        one slow moment would bound all steps after it."""
        if tokens < MIN_TOKENS // 2 or seconds <= 0:
            return
        rate = tokens / seconds
        self._rate = rate if self._rate is None else self._rate + _SMOOTHING * (rate - self._rate)
