"""Bound the prompt tokens of a step, so that they do not delay the decodes of the same step.

The rule. A step's seconds are taken as base + per_token * prompt tokens. The base is what a step of
decodes alone takes; per_token is the time beyond it in steps with prompt tokens, for each of
them. Both are medians of the last few steps, so that single slow steps of a busy machine change
nothing, and are learned while serving: no model or machine is known beforehand.

- Beside decodes, prompts get as many tokens as keep the step within SLOWDOWN times the base, but
  never fewer than MIN_BESIDE_DECODES, so that they progress however slow the machine is.
- Where decodes are left out of a step, because their tenants are deferred, it may take
  LEFT_OUT_SLOWDOWN times the base of all of them.
- Without decodes, as many as keep it within LONGEST_PROMPT_STEP_S (or SLOWDOWN times the base, if
  that is longer), but never fewer than MIN_ALONE: a worker whose steps last as long as the pool's
  stall timeout would be taken for dead.
- At most GROWTH times the most that any step had, starting with FIRST_TOKENS: a step far larger
  than all measured ones is not tried.
- Steps that are short anyway (SHORT_STEP_S) are not made shorter.
- The base depends on the number of decodes, and is kept for each power of two of them. Where it has
  not been measured yet, or not for PROBE_EVERY steps, one step is run without prompt tokens. Two
  steps in a row never are.
"""

from collections import deque
from collections.abc import Iterable

SLOWDOWN = 2.5
LEFT_OUT_SLOWDOWN = 3.0
MIN_BESIDE_DECODES = 16
MIN_ALONE = 64
LONGEST_PROMPT_STEP_S = 1.0
SHORT_STEP_S = 0.01
FIRST_TOKENS = 64
GROWTH = 4
PROBE_EVERY = 16

_BASE_SAMPLES = 5
_RATE_SAMPLES = 8
_LEAST_TOKENS = 8  # with fewer, most of the time beyond the base is noise
_LEAST_SHARE, _LEAST_SHARE_ALONE = 0.1, 0.5  # of a step's seconds, that its prompt tokens took
_MOST_WEIGHT = 64  # tokens that count of one step: one huge slow step must not outweigh the others


class StepBudget:
    """Measures steps, and bounds the prompt tokens of the next one.

    max_tokens: of a step; the budget never exceeds it.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._largest = -(-FIRST_TOKENS // GROWTH)
        self._bases: dict[int, _Base] = {}
        self._rates: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES)
        self._per_token_s: float | None = None
        self._last_had_prompts = False

    def prefill_budget(self, decode_rows: int, left_out: int = 0) -> int:
        """Return how many prompt tokens the next step may have; 0 if it must be measured without.

        decode_rows: rows of decodes in the same step. left_out: decodes that wait for it to end.
        """
        waiting_rows = decode_rows + left_out
        least = MIN_BESIDE_DECODES if waiting_rows else MIN_ALONE
        most = min(self._max_tokens, self._largest * GROWTH)
        if most <= least:
            return most
        if decode_rows and not left_out and self._last_had_prompts and self._is_stale(decode_rows):
            return 0
        if not self._per_token_s:  # nothing is measured yet, or the clock stands still
            return most
        shortest_s = SHORT_STEP_S if waiting_rows else LONGEST_PROMPT_STEP_S
        slowdown = LEFT_OUT_SLOWDOWN if left_out else SLOWDOWN
        longest_s = max(slowdown * self._base_s(waiting_rows), shortest_s)
        left_s = longest_s - self._base_s(decode_rows)
        return int(min(max(left_s / self._per_token_s, least), most))

    def observe(self, decode_rows: int, prompt_tokens: int, seconds: float) -> None:
        """Record how long a step took."""
        self._last_had_prompts = prompt_tokens > 0
        base = self._bases.get(_bucket(decode_rows))
        if prompt_tokens == 0:
            if base is None:
                base = self._bases[_bucket(decode_rows)] = _Base()
            base.add(seconds)
            return
        if base is not None:
            base.age += 1
            base.lower(seconds)
        self._largest = max(self._largest, prompt_tokens)
        if prompt_tokens >= _LEAST_TOKENS:
            self._add_rate(decode_rows, prompt_tokens, seconds)

    def _add_rate(self, decode_rows: int, prompt_tokens: int, seconds: float) -> None:
        # The base may be wrong: measured while the machine was busy or, without decodes, a guess.
        least_share = _LEAST_SHARE if decode_rows else _LEAST_SHARE_ALONE
        over_s = max(seconds - self._base_s(decode_rows), seconds * least_share)
        self._rates.append((over_s / prompt_tokens, min(prompt_tokens, _MOST_WEIGHT)))
        self._per_token_s = _weighted_median(self._rates)

    def _is_stale(self, decode_rows: int) -> bool:
        base = self._bases.get(_bucket(decode_rows))
        return base is None or base.age >= PROBE_EVERY

    def _base_s(self, decode_rows: int) -> float:
        """Return the base of the nearest measured number of decodes, preferably of fewer; else 0.

        A step of prompts alone has about that of the fewest decodes: it reads the same weights.
        """
        if not self._bases:
            return 0.0
        wanted = _bucket(decode_rows)
        below = [bucket for bucket in self._bases if bucket <= wanted]
        return self._bases[max(below) if below else min(self._bases)].median_s


class _Base:
    """The seconds of steps of decodes alone. age: steps with prompts since the last of them."""

    __slots__ = ("_samples", "age", "median_s")

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_BASE_SAMPLES)
        self.median_s = 0.0
        self.age = 0

    def add(self, seconds: float) -> None:
        self._samples.append(seconds)
        self.median_s = sorted(self._samples)[len(self._samples) // 2]
        self.age = 0

    def lower(self, seconds: float) -> None:
        """Record a step that had prompt tokens, too: without them it would not have been slower."""
        if seconds < self.median_s:
            age = self.age
            self.add(seconds)
            self.age = age


def _bucket(rows: int) -> int:
    return rows.bit_length()


def _weighted_median(samples: Iterable[tuple[float, int]]) -> float:
    """Return the least value that, with those below it, has more than half of the weight."""
    ordered = sorted(samples)
    half = sum(weight for _, weight in ordered) / 2
    for value, weight in ordered:
        half -= weight
        if half < 0:
            return value
    return ordered[-1][0]
