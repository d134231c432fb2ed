"""Notice steps of wall clocks, after which ages and ends that are stored must not be believed.

A clock that was set wrong, or is set right, makes all that is stored old at once. So nothing is
deleted for its age until a clock has gone on evenly for a while; what a wrong clock has hidden is
there again when the clock is right.
"""

import logging
import time

log = logging.getLogger("headrace.frontend.store")

# A clock that is this far off what a steady one says has been set.
STEP_S = 60.0
# After this long without a step a clock is believed.
SETTLE_S = 3600.0


class ClockSteps:
    """The steps that this process has seen of some clocks."""

    def __init__(self) -> None:
        self._offsets: dict[str, float] = {}  # by clock, what it is ahead of the steady one
        self._stepped_at: float | None = None
        self._began_at = steady_time()
        self.note_own()

    def note(self, clock: str, now: float) -> None:
        """Note what a clock says. now: in seconds since 1970."""
        offset = now - steady_time()
        step_s = offset - self._offsets.setdefault(clock, offset)
        self._offsets[clock] = offset
        if abs(step_s) > STEP_S:
            self._stepped_at = steady_time()
            log.warning(
                "%s was set by %+.0f s: nothing is deleted for its age for the next %.0f minutes",
                *(clock, step_s, SETTLE_S / 60),
            )

    def note_own(self) -> None:
        """Note what this machine's clock says."""
        self.note("this machine's clock", time.time())

    def settles_in_s(self) -> float:
        """Return for how long ages must not be believed after a step; 0.0 without one."""
        if self._stepped_at is None:
            return 0.0
        return max(self._stepped_at + SETTLE_S - steady_time(), 0.0)

    def are_settled(self) -> bool:
        """Return whether what is too old may be deleted: not soon after a step, nor soon after this
        process has begun, which cannot know of earlier steps."""
        return self.settles_in_s() == 0.0 and steady_time() - self._began_at >= SETTLE_S


def steady_time() -> float:
    """Return the time of a clock that nobody sets and that goes on while a machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
