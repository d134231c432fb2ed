"""Decide how many workers a group should have, from its load. Pure: no sockets and no clock.

The policy computes how many workers the load needs: requests in flight (running, waiting, held in
frontends) divided by the target for each worker, or waiting prompt tokens divided by theirs,
whichever is more. That is an absolute number: starting workers count as soon as they are ordered,
so nothing is ordered twice. A group grows when the load has needed more for the whole up window,
and shrinks, step by step, to the maximum that it has needed in the down window.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from headrace.coordinator.autoscaling.sliding_window import SlidingWindow
from headrace.protocol.autoscaling import Autoscaling

# A group grows when more than this share beyond its size is needed.
TOLERANCE = 0.1
# When so many times its size is needed, it grows after this share of the up window.
BURST, BURST_SHARE = 2.0, 0.2
# A group shrinks by this share of its size, or one worker, and again after this share of the down
# window. Fewer workers have larger batches and longer steps, so that the same requests stay longer
# and need more workers than before: the policy must see that before the next step.
STEP, STEP_SHARE = 0.1, 0.1
# After workers could not be started: delay of the first and of the longest retry.
BACKOFF_S, MAX_BACKOFF_S = 30.0, 600.0
# Why a size has changed.
Cause = Literal["", "requests", "tokens", "first", "idle", "limits"]
REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
FIRST: Final = "first"
IDLE: Final = "idle"
LIMITS: Final = "limits"


@dataclass(frozen=True, slots=True)
class Observation:
    """A group at a moment.

    at: seconds of a monotonic clock. size: its target size.
    requests: in flight, including those that frontends hold. tokens: waiting prompt tokens.
    silent: ready workers whose load is not known now.
    problem: why workers cannot be started; "" if they can.
    """

    at: float
    size: int
    requests: int
    tokens: int = 0
    silent: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision of the policy.

    size: the new target size. needed: workers that the load needs now, ignoring limits.
    cause, reason: why the size changes, in one word and in a sentence; "" if it does not.
    held: why it is smaller than needed; "" if it is not.
    """

    size: int
    needed: int
    cause: Cause = ""
    reason: str = ""
    held: str = ""


class Policy:
    """The policy of one group. Call observe() about once a second."""

    def __init__(self, options: Autoscaling) -> None:
        self.options = options
        burst_s = options.up_window_s * BURST_SHARE
        self._up, self._burst = SlidingWindow(options.up_window_s, min), SlidingWindow(burst_s, min)
        self._down = SlidingWindow(options.down_window_s, max)
        self._burst_s = burst_s
        self._shrunk_at = -math.inf
        self._failures = 0
        self._ceiling: tuple[int, float] | None = None  # no more than this, until then

    def restart(self) -> None:
        """Forget what was needed: an operator has set the size, which then holds for a while."""
        for window in (self._up, self._burst, self._down):
            window.clear()

    def on_failed(self, size: int, now: float) -> None:
        """Note that workers beyond a size could not be started."""
        delay_s = min(BACKOFF_S * 2.0 ** min(self._failures, 10), MAX_BACKOFF_S)
        self._failures += 1
        self._ceiling = size, now + delay_s

    def on_grown(self, size: int) -> None:
        """Note that all workers of a size are ready."""
        if self._ceiling is not None and size > self._ceiling[0]:
            self._ceiling, self._failures = None, 0

    def observe(self, seen: Observation) -> Decision:
        """Return the decision for a group; the same again until its size has changed."""
        need = self._need(seen)
        self._up.add(seen.at, need)
        self._burst.add(seen.at, need)
        # A silent worker may be as busy as any: it is not a reason to shrink, nor to grow.
        self._down.add(seen.at, need + seen.silent)
        size, cause, over = self._wanted(seen, need)
        options = self.options
        held = ""
        if size > options.max_workers:
            size, held = options.max_workers, f"--max-workers is {options.max_workers}"
        size = max(size, options.min_workers)
        if not options.min_workers <= seen.size <= options.max_workers:
            cause = LIMITS
        if size > seen.size:
            size, held = self._allowed(size, seen, held)
        reason = "" if size == seen.size else self._describe(seen, cause, over)
        return Decision(size, _round_up(need), cause if reason else "", reason, held)

    def _need(self, seen: Observation) -> float:
        """Return the workers that the load needs, not rounded."""
        by_tokens = self.options.target_tokens
        needs = [seen.requests / self.options.target_requests]
        needs += [] if by_tokens is None else [seen.tokens / by_tokens]
        return max(needs)

    def _wanted(self, seen: Observation, need: float) -> tuple[int, Cause, float]:
        """Return the size that the load asks for, the cause, and for how long it has."""
        up, burst, down = (each.picked(seen.at) for each in (self._up, self._burst, self._down))
        kind: Cause = REQUESTS
        if need > seen.requests / self.options.target_requests:
            kind = TOKENS
        if seen.size == 0 and need > 0:  # every second of the window would be one of waiting
            return _round_up(need), FIRST, 0.0
        if burst is not None and burst >= BURST * seen.size > 0:
            return _round_up(burst), kind, self._burst_s
        if up is not None and up > seen.size * (1 + TOLERANCE):
            return _round_up(up), kind, self.options.up_window_s
        if down is not None and self._may_shrink(seen, down):
            # Without any request there is nothing to observe in between.
            step = max(1, int(STEP * seen.size)) if down > 0 else seen.size
            self._shrunk_at = seen.at
            return max(_round_up(down), seen.size - step), IDLE, self.options.down_window_s
        return seen.size, "", 0.0

    def _may_shrink(self, seen: Observation, down: float) -> bool:
        pause_s = STEP_SHARE * self.options.down_window_s
        return _round_up(down) < seen.size and seen.at - self._shrunk_at >= pause_s

    def _allowed(self, size: int, seen: Observation, held: str) -> tuple[int, str]:
        """Limit growth while workers fail to start."""
        if seen.problem and seen.size > 0:
            return seen.size, f"workers that there should be fail: {seen.problem}"
        if self._ceiling is None or size <= self._ceiling[0]:
            return size, held
        most, until = self._ceiling
        if seen.at >= until:
            return size, held
        reason = f"more could not be started, which is tried again in {until - seen.at:.0f} s"
        return max(seen.size, most), reason

    def _describe(self, seen: Observation, cause: Cause, for_s: float) -> str:
        options = self.options
        each = f"target {options.target_requests:g} a worker"
        lasting = f", for {for_s:g} s" if for_s else ""
        match cause:
            case "requests":
                return f"{seen.requests} requests, {each}{lasting}"
            case "tokens":
                wanted = f"target {options.target_tokens:g} a worker"
                return f"{seen.tokens} prompt tokens wait, {wanted}{lasting}"
            case "first":
                return f"{seen.requests} requests wait, and there is no worker"
            case "limits":
                return f"between {options.min_workers} and {options.max_workers} are allowed"
        if not seen.requests and not self._down.picked(seen.at):
            return f"no request for {for_s:g} s"
        return f"that was enough for {for_s:g} s; {seen.requests} requests, {each}"


def _round_up(need: float) -> int:
    """Round up to whole workers; 33.000000001, a rounding error of floats, becomes 33."""
    return math.ceil(need - 1e-9)
