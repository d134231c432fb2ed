"""How many workers a group should have, from what they have to do. Pure: no sockets and no clock.

What is looked at is how many workers the load needs: requests in flight (running, waiting, held in
frontends) over what each worker is to have, or waiting prompt tokens over theirs, whichever needs
more. That is an absolute number: workers that start already count as soon as they are wanted, and
nothing is ordered twice. A group grows when the load has needed more for the whole up window, and
shrinks, step by step, to the most that it has needed in the down window.
"""

import math
from dataclasses import dataclass

from headrace.coordinator.windows import Window
from headrace.protocol.autoscaling import Autoscaling

# A group grows when more than this share beyond its size is needed.
TOLERANCE = 0.1
# When so many times its size is needed, it grows after this share of the up window.
BURST, BURST_SHARE = 2.0, 0.2
# A group shrinks by this share of its size, or one worker, and again after this share of the down
# window. With fewer workers each has larger batches and longer steps, so that the same requests
# stay longer and need more workers than they seemed to: that has to be seen before the next step.
STEP, STEP_SHARE = 0.1, 0.1
# After workers could not be started: when it is tried again, and at the latest after many times.
BACKOFF_S, LONGEST_BACKOFF_S = 30.0, 600.0
# Why a size is another one.
REQUESTS, TOKENS, FIRST, IDLE, LIMITS = "requests", "tokens", "first", "idle", "limits"


@dataclass(frozen=True, slots=True)
class Observation:
    """A group at a moment.

    at: seconds of a monotonic clock. size: workers that it is to have.
    requests: in flight, also those that frontends hold. tokens: of prompts that wait.
    silent: workers that are ready and whose load is not known now.
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
    """size: what the group is to have. needed: what its load needs now, whatever is allowed.
    cause, reason: why the size is another one, in one word and in many; "" if it is the same.
    held: why it is not as large as it should be; "" if it is."""

    size: int
    needed: int
    cause: str = ""
    reason: str = ""
    held: str = ""


class Policy:
    """One group's. observe() is to be called about once a second."""

    def __init__(self, options: Autoscaling) -> None:
        self.options = options
        burst_s = options.up_window_s * BURST_SHARE
        self._up, self._burst = Window(options.up_window_s, min), Window(burst_s, min)
        self._down = Window(options.down_window_s, max)
        self._burst_s = burst_s
        self._shrunk_at = -math.inf
        self._failures = 0
        self._ceiling: tuple[int, float] | None = None  # no more than this, until then

    def restart(self) -> None:
        """Forget what was needed: somebody else has chosen the size, and it holds for a while."""
        for window in (self._up, self._burst, self._down):
            window.clear()

    def on_failed(self, size: int, now: float) -> None:
        """Workers beyond a size could not be started."""
        delay_s = min(BACKOFF_S * 2.0 ** min(self._failures, 10), LONGEST_BACKOFF_S)
        self._failures += 1
        self._ceiling = size, now + delay_s

    def on_grown(self, size: int) -> None:
        """All workers of a size are there."""
        if self._ceiling is not None and size > self._ceiling[0]:
            self._ceiling, self._failures = None, 0

    def observe(self, seen: Observation) -> Decision:
        """What is to become of the group. Says the same again until the size is what it says."""
        need = self._need(seen)
        self._up.add(seen.at, need)
        self._burst.add(seen.at, need)
        # Who is silent may be as busy as any: it is no reason to shrink, nor to grow.
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
        reason = "" if size == seen.size else self._say(seen, cause, over)
        return Decision(size, _up(need), cause if reason else "", reason, held)

    def _need(self, seen: Observation) -> float:
        """Workers, not rounded."""
        by_tokens = self.options.target_tokens
        needs = [seen.requests / self.options.target_requests]
        needs += [] if by_tokens is None else [seen.tokens / by_tokens]
        return max(needs)

    def _wanted(self, seen: Observation, need: float) -> tuple[int, str, float]:
        """The size that the load asks for, why, and for how long it has."""
        up, burst, down = (each.picked(seen.at) for each in (self._up, self._burst, self._down))
        kind = REQUESTS
        if need > seen.requests / self.options.target_requests:
            kind = TOKENS
        if seen.size == 0 and need > 0:  # every second of the window would be one of waiting
            return _up(need), FIRST, 0.0
        if burst is not None and burst >= BURST * seen.size > 0:
            return _up(burst), kind, self._burst_s
        if up is not None and up > seen.size * (1 + TOLERANCE):
            return _up(up), kind, self.options.up_window_s
        if down is not None and self._may_shrink(seen, down):
            # Without any request there is nothing to be seen.
            step = max(1, int(STEP * seen.size)) if down > 0 else seen.size
            self._shrunk_at = seen.at
            return max(_up(down), seen.size - step), IDLE, self.options.down_window_s
        return seen.size, "", 0.0

    def _may_shrink(self, seen: Observation, down: float) -> bool:
        pause_s = STEP_SHARE * self.options.down_window_s
        return _up(down) < seen.size and seen.at - self._shrunk_at >= pause_s

    def _allowed(self, size: int, seen: Observation, held: str) -> tuple[int, str]:
        """How far it may grow, beside workers that do not come."""
        if seen.problem and seen.size > 0:
            return seen.size, f"workers that there should be fail: {seen.problem}"
        if self._ceiling is None or size <= self._ceiling[0]:
            return size, held
        most, until = self._ceiling
        if seen.at >= until:
            return size, held
        told = f"more could not be started, which is tried again in {until - seen.at:.0f} s"
        return max(seen.size, most), told

    def _say(self, seen: Observation, cause: str, for_s: float) -> str:
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


def _up(need: float) -> int:
    """Whole workers; 33.000000001 of them, as floats make it, are 33."""
    return math.ceil(need - 1e-9)
